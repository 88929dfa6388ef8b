"""What a finished conversion leaves behind: which file it read and the digests of what it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gatescope import specs
from gatescope.paths import atomic_write, file_sha256

RECEIPT = "receipt.json"
#: Raised when the files written change; an older conversion is then made again.
CONVERTER = 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """Written last, so that its presence says the conversion finished.

    source         name of the file read; source_sha256 its digest
    licence        of the weights
    converter      version of the code that converted
    *_sha256       digests of the files written
    """

    source: str
    source_sha256: str
    licence: str
    converter: int
    model_sha256: str
    tokenizer_sha256: str
    config_sha256: str

    @classmethod
    def of(cls, folder: Path, *, source: str, source_sha256: str, licence: str) -> Receipt:
        """The receipt for the three files that lie in ``folder``."""
        digests = {name: file_sha256(folder / file) for name, file in FILES.items()}
        return cls(source=source, source_sha256=source_sha256, licence=licence, converter=CONVERTER, **digests)

    @classmethod
    def read(cls, folder: Path) -> Receipt | None:
        """The receipt in ``folder``, or None when none was finished there by this version of the converter."""
        try:
            receipt = specs.from_dict(cls, json.loads((folder / RECEIPT).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # Refusal and broken JSON are ValueErrors
            return None
        return receipt if receipt.converter == CONVERTER else None

    def write(self, folder: Path) -> None:
        """Write it into ``folder``. Raises DataError when that is refused."""
        with atomic_write(folder / RECEIPT) as temporary:
            temporary.write_text(json.dumps(specs.to_dict(self), indent=2) + "\n", encoding="utf-8")

    def damaged(self, folder: Path) -> list[str]:
        """Names of the files in ``folder`` that are missing or not those of this receipt.

        Every byte is read, once per process: 538 MB take 0.3 s with SHA instructions, about 1 s without, and the same
        read brings the weights into the page cache that the model is then mapped from.
        """
        return [
            file
            for name, file in FILES.items()
            if not (folder / file).is_file() or file_sha256(folder / file) != getattr(self, name)
        ]


#: Field of the receipt -> file it speaks of.
FILES = {
    "model_sha256": "model.safetensors",
    "tokenizer_sha256": "tokenizer.json",
    "config_sha256": "config.json",
}

"""Opening a model that a person named: a folder, a GGUF file, the packaged model, or a hub id."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from gatescope.errors import DataError, Refusal
from gatescope.models import TinyLM
from gatescope.models.smollm2 import Tokenizer, load_gguf, load_smollm2
from gatescope.paths import file_sha256
from gatescope.scan.words import visible

PACKAGED = "smollm2"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TRANSFORMERS = "install it: python -m pip install transformers==5.24.0"


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to be scanned.

    name      as the person named it
    model     whole, in evaluation mode
    trunk     what ends before the logits; probes watch it, so that [T vocab] is never whole
    readout   last output of the trunk -> logits; None for a model without an output head
    encode    text -> ids; pieces: ids -> one readable string a token
    context   longest sequence it was trained on, None where nothing says so
    n_layers  blocks, for the progress bar
    vocab     token ids are 0..vocab-1
    bos_id    token the tokenizer puts first by itself, None where it adds none
    files     file -> sha256
    about     further attributes of the record
    """

    name: str
    model: nn.Module
    trunk: nn.Module
    readout: Callable[[Float[Tensor, "*n D"]], Float[Tensor, "*n vocab"]] | None
    encode: Callable[[str], Int[Tensor, "1 T"]]
    pieces: Callable[[Int[Tensor, "*shape"]], list[str]]
    context: int | None
    n_layers: int
    vocab: int
    bos_id: int | None
    files: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)


class Trunk(nn.Module):
    """A `TinyLM` up to its last block, with the same taps but for the logits."""

    def __init__(self, model: TinyLM) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.tap_sites = model.tap_sites - {"logits"}

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The residual stream after the last block."""
        return self.model.hidden(tokens)


def open_model(name: str) -> Opened:
    """The model behind ``name``: a folder with safetensors, a ``.gguf`` file, "smollm2", or a hub id ``owner/model``.

    The network is used for a hub id alone. Code that comes with a model is not run, and pickled weights are not read.
    Raises Refusal for what is none of these or cannot be loaded, DataError for a damaged file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _huggingface(name, path)
    if path.is_file():
        return _gguf(name, path)
    if name == PACKAGED:
        pretrained = load_smollm2()
        files = {pretrained.provenance.source: pretrained.provenance.source_sha256}
        return _tiny(name, pretrained.model, pretrained.tokenizer, pretrained.context, files)
    if _HUB_ID.fullmatch(name):
        return _huggingface(name, None)
    raise Refusal(
        "scan",
        f"a folder, a .gguf file, {PACKAGED!r} or a hub id owner/model",
        repr(name),
        "check the path; hub ids are spelled with their owner, as in openai-community/gpt2",
    )


def _tiny(name: str, model: TinyLM, tokenizer: Tokenizer, context: int, files: dict[str, str]) -> Opened:
    return Opened(
        name=name,
        model=model,
        trunk=Trunk(model),
        readout=model.readout,
        encode=tokenizer.encode,
        pieces=tokenizer.pieces,
        context=context,
        n_layers=model.config.n_layers,
        vocab=model.config.vocab,
        bos_id=None,
        files=files,
        about={"model_class": type(model).__name__},
    )


def _gguf(name: str, path: Path) -> Opened:
    reader, architecture, tokenizer = _gguf_header(path)
    digest = {path.name: file_sha256(path)}
    if (architecture, tokenizer) == ("llama", "smollm"):
        model, own, context = load_gguf(path, reader)
        return _tiny(name, model, own, context, digest)
    try:
        return _huggingface(name, path.parent, gguf_file=path.name, files=digest)
    except Refusal as error:
        raise Refusal(
            "scan",
            f"a GGUF architecture that this project or transformers can load from {path.name}",
            f"{architecture!r} with the tokenizer {tokenizer!r} ({error.got})",
            "scan its safetensors instead",
        ) from error


def _gguf_header(path: Path) -> tuple[Any, str, str]:
    """The reader of a GGUF file, and the architecture and pre-tokenizer that it names."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        fields = reader.fields
        names = ("general.architecture", "tokenizer.ggml.pre")
        architecture, tokenizer = (str(fields[key].contents()) if key in fields else "unnamed" for key in names)
    except (ValueError, OSError, IndexError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            "scan", f"a whole GGUF file at {path}", reason, "download it again, or name a folder"
        ) from error
    return reader, architecture, tokenizer


def _huggingface(
    name: str, folder: Path | None, *, gguf_file: str | None = None, files: dict[str, str] | None = None
) -> Opened:
    try:
        import transformers
    except ImportError as error:
        raise Refusal(
            "scan", "transformers, which loads this kind of model", "none installed", _TRANSFORMERS
        ) from error

    if folder is not None and gguf_file is None:
        files = _weights(folder)
    source = name if folder is None else str(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": folder is not None}
    if gguf_file is not None:
        options["gguf_file"] = gguf_file
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        config = transformers.AutoConfig.from_pretrained(source, **options)
        kind = transformers.AutoModelForCausalLM if _is_language_model(config, transformers) else transformers.AutoModel
        if gguf_file is None:
            options["use_safetensors"] = True
        model = kind.from_pretrained(source, dtype=torch.float32, **options).eval().requires_grad_(False)
    except (OSError, ValueError, ImportError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, folder, error) from error
    text = config.get_text_config()
    revision = getattr(config, "_commit_hash", None)
    return Opened(
        name=name,
        model=model,
        trunk=model.base_model,
        readout=_head(model),
        encode=lambda written: torch.tensor([tokenizer(written, verbose=False)["input_ids"]], dtype=torch.long),
        pieces=lambda ids: [
            visible(str(tokenizer.decode([index], clean_up_tokenization_spaces=False)))
            for index in ids.flatten().tolist()
        ],
        context=getattr(text, "max_position_embeddings", None),
        n_layers=text.num_hidden_layers,
        vocab=text.vocab_size,
        bos_id=next(iter(tokenizer("", verbose=False)["input_ids"]), None),
        files=files or {},
        about={"model_class": type(model).__name__, **({"revision": revision} if revision else {})},
    )


def _weights(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        raise Refusal(
            "scan",
            f"weights as safetensors in {folder}",
            f"pickled weights {', '.join(pickled)}, which can run code" if pickled else "none",
            "convert them with save_pretrained(safe_serialization=True) where you trust them"
            if pickled
            else "name the folder that holds config.json, tokenizer.json and *.safetensors",
        )
    return {path.name: file_sha256(path) for path in (*found, folder / "config.json") if path.is_file()}


def _is_language_model(config: Any, transformers: Any) -> bool:
    named = getattr(config, "architectures", None) or []
    causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
    return causal and (not named or any(name.endswith(("CausalLM", "LMHeadModel")) for name in named))


def _head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Logits from the base model's last output, which has passed the final norm."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        return None
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def read(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        return logits if cap is None else (logits / cap).tanh() * cap

    return read


def _not_loaded(name: str, folder: Path | None, error: Exception) -> Refusal:
    reason = f"{type(error).__name__}: {visible(str(error)).strip()}"
    reason = reason if len(reason) < 400 else f"{reason[:400]}…"
    if folder is None:
        step = "connect to the network (HF_HUB_OFFLINE unset) and check the id, or name a local folder"
        return Refusal("scan", f"the hub model {name!r} with safetensors", reason, step)
    step = "check config.json, the tokenizer files and the weights in the folder"
    return Refusal("scan", f"a model of transformers in {folder}", reason, step)


__all__ = ["PACKAGED", "Opened", "Trunk", "open_model"]

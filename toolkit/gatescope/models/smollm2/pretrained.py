"""The converted model, ready to run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gatescope.models.smollm2.conversion import convert, model_dir
from gatescope.models.smollm2.gguf_file import GGUFModel
from gatescope.models.smollm2.receipt import FILES, Receipt
from gatescope.models.smollm2.tokenizer import Tokenizer
from gatescope.models.tiny_lm import LMConfig, TinyLM


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model with what belongs to it.

    model        in fp32 on the CPU, in evaluation mode, its weights frozen
    tokenizer    of the same vocabulary
    config       of the model
    context      longest sequence it was trained on
    provenance   the file the weights come from, their licence and digests
    """

    model: TinyLM
    tokenizer: Tokenizer
    config: LMConfig
    context: int
    provenance: Receipt


def load_smollm2(folder: Path | None = None) -> Pretrained:
    """SmolLM2-135M-Instruct from the cache; the first call converts it.

    Files that differ from their receipt are converted again, and it says so. Raises DataError when the wheel with the
    model is not installed or the cache cannot be written.
    """
    folder = folder or model_dir()
    receipt = _sound_receipt(folder)
    configuration = json.loads((folder / FILES["config_sha256"]).read_text(encoding="utf-8"))
    config = LMConfig.from_dict(configuration["model"])
    with _NoDraws():  # every weight is then replaced by a view of the mapped file
        model = TinyLM(config)
    model.load_state_dict(load_file(folder / FILES["model_sha256"]), assign=True)
    return Pretrained(
        model=model.eval().requires_grad_(False),
        tokenizer=Tokenizer.load(folder / FILES["tokenizer_sha256"], configuration["bos_id"]),
        config=config,
        context=configuration["context"],
        provenance=receipt,
    )


def load_gguf(path: Path, reader: Any = None) -> tuple[TinyLM, Tokenizer, int]:
    """Model (fp32, frozen), tokenizer and trained context of a GGUF file laid out as SmolLM2's, without the cache.

    reader  a GGUFReader of the file, where one was opened already

    Raises DataError for another architecture or tokenizer, and for a file that is cut short.
    """
    source = GGUFModel(path, reader)
    with _NoDraws():
        model = TinyLM(source.config())
    model.load_state_dict({name: torch.from_numpy(values) for name, values in source.tensors()}, assign=True)
    tokenizer = Tokenizer(source.tokenizer(), source.field("tokenizer.ggml.bos_token_id"))
    return model.eval().requires_grad_(False), tokenizer, source.field("llama.context_length")


def _sound_receipt(folder: Path) -> Receipt:
    receipt = Receipt.read(folder)
    damaged = [] if receipt is None else receipt.damaged(folder)
    if damaged:
        print(f"{', '.join(damaged)} in {folder}: not as converted; converting again")
    if receipt is None or damaged:
        convert(target=folder)
        receipt = Receipt.read(folder)
    assert receipt is not None
    return receipt


class _NoDraws(TorchFunctionMode):
    """Leaves weights unset instead of drawing 135 million random numbers.

    The meta device would do too, but drawing on it imports the compiler and sympy, which takes longer than the load; so
    does leaving it by empty_like.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass everything on but draws."""
        kwargs = kwargs or {}
        if func is torch.empty_like and args[0].is_meta:
            return torch.empty(args[0].shape, dtype=args[0].dtype, device=kwargs["device"])
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

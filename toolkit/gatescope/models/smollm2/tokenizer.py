"""Text to token ids and back, and token pieces that can be read on an axis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
import torch
from jaxtyping import Int
from torch import Tensor

from gatescope.errors import Refusal

#: Longest text `Tokenizer.prepare` lets through. The model was trained up to 8,192; a laptop waits too long for that.
MAX_TOKENS = 2048

#: White space as it is shown on an axis.
MARKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


class Tokenizer:
    """Byte-level BPE. Adds no special tokens by itself; ``bos=True`` puts the beginning-of-text token first."""

    def __init__(self, backend: tokenizers.Tokenizer, bos_id: int) -> None:
        self.backend, self.bos_id = backend, bos_id
        self.vocab = backend.get_vocab_size()
        self._special = {token.content for token in backend.get_added_tokens_decoder().values()}

    @classmethod
    def load(cls, path: Path, bos_id: int) -> Tokenizer:
        """From a ``tokenizer.json``."""
        return cls(tokenizers.Tokenizer.from_file(str(path)), bos_id)

    def encode(self, text: str, *, bos: bool = False) -> Int[Tensor, "1 T"]:
        """Token ids; `decode` gives the very same text back. Names of special tokens in the text become those tokens.

        Raises Refusal for a character that the vocabulary cannot spell (some control characters, lone surrogates).
        """
        self._check_spelling(text)
        ids = self.backend.encode(text, add_special_tokens=False).ids
        return torch.tensor([[self.bos_id] * bos + ids], dtype=torch.long)

    def decode(self, ids: Int[Tensor, "*shape"] | Iterable[int]) -> str:
        """The text of token ids, special tokens included. Raises Refusal for an id outside the vocabulary."""
        return self.backend.decode(self._known(ids), skip_special_tokens=False)

    def pieces(self, ids: Int[Tensor, "*shape"] | Iterable[int]) -> list[str]:
        r"""One readable string a token: a space is '·', a newline '⏎', a tab '⇥'.

        A byte that is no whole character is written as in a Python literal, '\xf0'. Raises Refusal for an id outside
        the vocabulary.
        """
        return [self._piece(str(self.backend.id_to_token(index))) for index in self._known(ids)]

    def prepare(self, text: str, max_tokens: int = MAX_TOKENS, *, bos: bool = False) -> Int[Tensor, "1 T"]:
        """`encode` for text that a person typed.

        Raises Refusal for an empty or blank text, and for more than ``max_tokens`` tokens, saying how many there are.
        """
        if not text.strip():
            raise Refusal("prepare", "a text with at least one word", f"{text!r}", "type a sentence")
        ids = self.encode(text, bos=bos)
        if ids.shape[1] > max_tokens:
            raise Refusal(
                "prepare", f"at most {max_tokens} tokens", f"{ids.shape[1]}", "shorten the text, or raise max_tokens"
            )
        return ids

    def _known(self, ids: Int[Tensor, "*shape"] | Iterable[int]) -> list[int]:
        flat = ids.flatten().tolist() if isinstance(ids, Tensor) else list(ids)
        for index in flat:
            if not 0 <= index < self.vocab:
                raise Refusal("decode", f"token ids in 0..{self.vocab - 1}", f"{index}", "use ids of this tokenizer")
        return flat

    def _check_spelling(self, text: str) -> None:
        for name in self._special:
            text = text.replace(name, "")
        for character in dict.fromkeys(text):
            surrogate = "\ud800" <= character <= "\udfff"
            if surrogate or any(self.backend.token_to_id(_BYTE_TO_CHARACTER[b]) is None for b in character.encode()):
                raise Refusal(
                    "encode",
                    "characters that the vocabulary can spell",
                    f"{character!r} (U+{ord(character):04X})",
                    "remove that character",
                )

    def _piece(self, token: str) -> str:
        if token in self._special:
            return token
        raw = bytes(_CHARACTER_TO_BYTE[character] for character in token)
        return raw.decode("utf-8", errors="backslashreplace").translate(MARKS)


def _byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE (Radford et al. 2019, GPT-2's encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_BYTE_TO_CHARACTER = _byte_alphabet()
_CHARACTER_TO_BYTE = {character: byte for byte, character in _BYTE_TO_CHARACTER.items()}

"""What is read in lesson 07: a passage, something else, and the passage again."""

from __future__ import annotations

from functools import cache

import torch
from gatescope.errors import Refusal
from gatescope.models.smollm2 import Tokenizer
from gatescope.tasks.text import TEXTS, load_topics
from jaxtyping import Int
from torch import Tensor

#: Tokens of a block, of the passage, and of what stands between it and its return.
BLOCK, PASSAGE, BETWEEN = 4, 56, 48
LENGTH = 2 * PASSAGE + BETWEEN
#: Texts that are measured; what stands between comes from the next one.
NAMES = ("story", "prose", "letter", "recipe", "dialogue")
#: Those long enough for twice the length.
LONG = NAMES[:4]
PARTS = ("first time", "again")
#: Characters of Python's help topics that gates are trained on.
_CHARACTERS = 200_000


def parts(scale: int = 1) -> dict[str, slice]:
    """Which next-token losses of a sequence count as which part.

    "first time" leaves out the first 32 tokens, which every cache here can hold; "again" leaves out the first four
    tokens of the return, since nothing could tell before that it is one.
    """
    again = scale * (PASSAGE + BETWEEN)
    return {PARTS[0]: slice(31, again - 1), PARTS[1]: slice(again + 3, scale * LENGTH - 1)}


def returning(tokenizer: Tokenizer, name: str, scale: int = 1) -> Int[Tensor, "1 T"]:
    """A passage of TEXTS[name], the beginning of the next text, and the passage again: ``scale`` * LENGTH tokens.

    Raises Refusal for a text that is too short.
    """
    among = NAMES if scale == 1 else LONG
    after = among[(among.index(name) + 1) % len(among)]
    own, other = (tokenizer.encode(TEXTS[one].text) for one in (name, after))
    if own.shape[1] < scale * PASSAGE or other.shape[1] < scale * BETWEEN:
        got = f"{own.shape[1]} of {name} and {other.shape[1]} of {after}"
        raise Refusal("returning", f"{scale * PASSAGE} and {scale * BETWEEN} tokens", got, "choose a longer text")
    return _joined(own[:, : scale * PASSAGE], other[:, : scale * BETWEEN])


def crops(tokenizer: Tokenizer, count: int, seed: int) -> Int[Tensor, "B T"]:
    """Sequences made as `returning` does, of Python's help topics: what gates are trained on."""
    tokens = _topics(tokenizer)
    starts = torch.randint(len(tokens) - PASSAGE, (count, 2), generator=torch.Generator().manual_seed(seed))
    own, other = (tokens[starts[:, [one]] + torch.arange(size)] for one, size in ((0, PASSAGE), (1, BETWEEN)))
    return _joined(own, other)


def _joined(own: Int[Tensor, "B passage"], other: Int[Tensor, "B between"]) -> Int[Tensor, "B T"]:
    return torch.cat([own, other, own], 1)


@cache
def _topics(tokenizer: Tokenizer) -> Int[Tensor, " T"]:
    return tokenizer.encode(load_topics(_CHARACTERS))[0]

"""Texts that are on every machine, for lessons and tests.

The texts in TEXTS were written for this project and never change, so numbers measured on them can be compared between
machines. `load_topics` is larger and comes with Python itself; its wording changes with Python's minor version, so
train on it, but quote no number that was measured on it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from gatescope.errors import Refusal

#: Token id that starts every crop of bytes: one more than the largest byte.
BYTE_BOS = 256
#: Size of the vocabulary of byte crops, BOS included.
BYTE_VOCAB = 257


@dataclass(frozen=True, slots=True)
class Text:
    """A text, what it is good for, and its licence (an SPDX identifier)."""

    name: str
    text: str
    purpose: str
    licence: str = "Apache-2.0"


_STORY = """\
Once upon a time, in a village by the sea, there lived an old woman named Ida who took care of the lighthouse. \
Every evening she climbed to the top of the tower and lit the lamp, so that the fishermen \
could find their way home.
One night, during a terrible storm, the oil ran out. Ida looked out at the sea and thought of the boats. She \
broke her kitchen table into pieces and burned it. Then she burned the chairs, the shelves, and at last the front door.
In the morning, all the boats were safe in the harbour. The fishermen came to thank her and found her asleep on the \
floor of an empty house. They did not say a word. One by one, they went home and came back with a table, a blue door, \
and eleven chairs that did not match."""

_PROSE = """\
A river does not flow in a straight line for long. On the outside of a bend, the water moves faster and wears \
away the bank. On the inside of the bend, the water moves more slowly and drops the sand and gravel that it carries. \
As a result, the bend grows larger every year, until only a narrow strip of land separates one end of the loop from \
the other. When the river floods, the water breaks through this strip and takes the shorter path. The old loop is \
left behind as a curved lake, which slowly fills with mud, reeds and fallen leaves. From the air, you can still see \
the shapes of such lakes in fields that have been farmed for hundreds of years. They show how far the river has \
wandered since the last ice age."""

_DIALOGUE = """\
"Did you water the tomatoes?" asked Mira.
"I thought it was your turn," said Jonas.
"It was my turn on Monday. Today is Wednesday."
"Then whose turn was Tuesday?"
"Nobody's. It rained on Tuesday."
Jonas looked out of the window. "It is raining now," he said.
"So it is," said Mira. "Well done, Jonas.\""""

_LIST = """\
Things to pack for the mountains:
1. a warm jacket
2. two pairs of socks
3. a map and a compass
4. bread, cheese and four apples
5. a bottle of water
6. a small knife
7. matches in a dry box
8. a book for rainy days"""

_CODE = '''\
def moving_average(values, width):
    """Mean of each run of `width` neighbours."""
    if width < 1:
        raise ValueError("width must be at least 1")
    total = sum(values[:width])
    means = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        means.append(total / width)
    return means
'''

_LETTER = """\
Dear Nora,
Thank you for the parcel. The jam arrived in one piece, and the children have eaten half of it already. We are well, \
although the winter here is longer than anyone remembers. Last week the snow reached the window sills, and Peter had \
to dig a tunnel to the shed to feed the hens. He says that they lay fewer eggs because they are bored.
The school is closed until Thursday, so I teach the little ones myself. Today we measured the kitchen with a piece of \
string, and tomorrow we shall draw a map of it. When the roads are clear again, you must come and stay with us. There \
is a bed for you, and more snow than you could ever want.
With love from all of us,
Hanna"""

_RECIPE = """\
Onion soup for four people. Peel six large onions, cut them in half and slice them as thinly as you can. Melt two \
spoons of butter in a heavy pot, add the onions and a pinch of salt, and cook them slowly for forty minutes, until \
they are soft and dark brown. Stir them often, so that they do not burn. Add a spoon of flour, wait for one minute, \
and pour in a litre of hot broth. Let the soup cook for another twenty minutes. Meanwhile, toast four slices of old \
bread and cover them with cheese. Pour the soup into deep bowls, lay a slice of bread on each one, and put the bowls \
under a hot grill until the cheese melts. Serve the soup at once, and warn your guests about the bowls."""

_REPEATED = " ".join(["red stone green leaf blue river"] * 12)

_RECALL = """\
Anna keeps a parrot. Boris keeps a goat. Clara keeps a turtle. David keeps a spider. Elena keeps a donkey. \
The goat belongs to Boris. The spider belongs to David. The parrot belongs to Anna. The donkey belongs to Elena. \
The turtle belongs to Clara."""

_NUMBERS = """\
The twelve measurements were 0.31, 0.28, 0.35, 0.30, 0.29, 0.33, 0.27, 0.32, 0.34, 0.30, 0.31 and 0.28 metres. Their \
sum is 3.68 metres and their mean is 0.307 metres."""


def _shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


_TABLE = (
    Text("story", _STORY, "a short story: the yardstick for losses and for what interventions do to them"),
    Text("prose", _PROSE, "expository prose: the yardstick for sink statistics"),
    Text("letter", _LETTER, "a letter: first person, names, a greeting that begins the text"),
    Text("recipe", _RECIPE, "instructions: imperatives in the order in which things are done"),
    Text("dialogue", _DIALOGUE, "two speakers: quotation marks and newlines compete with the first token"),
    Text("list", _LIST, "numbered lines: heads that look at the line start or the previous number"),
    Text("code", _CODE, "Python: runs of spaces, brackets, names that come back"),
    Text("repeated", _REPEATED, "six words again and again: induction heads leave the sink"),
    Text("recall", _RECALL, "facts first, questions later: which heads look up the owner"),
    Text("numbers", _NUMBERS, "digits, each a token of its own"),
    Text("shuffled", _shuffled(_STORY, 0), "the story's words in a random order: the control for meaning"),
)
#: name -> Text.
TEXTS: dict[str, Text] = {text.name: text for text in _TABLE}


def story() -> str:
    """The short story of TEXTS: 171 tokens of SmolLM2."""
    return TEXTS["story"].text


def prose() -> str:
    """The expository prose of TEXTS: 156 tokens of SmolLM2."""
    return TEXTS["prose"].text


def random_tokens(vocab: int, length: int, *, seed: int, first: int = 0) -> Int[Tensor, "1 T"]:
    """Token ids drawn uniformly from ``first``..vocab-1: a text without any structure, the control for language.

    Raises Refusal for an empty range or length.
    """
    if length < 1 or vocab <= first:
        raise Refusal("random_tokens", "length >= 1 and vocab > first", f"{length=}, {vocab=}, {first=}", "raise them")
    return torch.randint(first, vocab, (1, length), generator=torch.Generator().manual_seed(seed))


@cache
def load_topics(n_chars: int | None = None) -> str:
    """The first ``n_chars`` characters of Python's own help topics (about 465,000 in Python 3.11), sorted by topic.

    Licence: PSF-2.0, part of every Python. Raises Refusal for a number of characters that is not there.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    if n_chars is not None and not 0 < n_chars <= len(text):
        raise Refusal("load_topics", f"1 to {len(text)} characters", f"{n_chars}", "ask for fewer, or pass None")
    return text[:n_chars]


def byte_crops(text: str, batch: int, length: int, *, seed: int) -> Int[Tensor, "B T"]:
    """Random crops of ``length`` - 1 bytes of UTF-8, each after a BYTE_BOS: batches for a byte language model.

    Without a first token that is always the same, a small byte model learns no sink.
    Raises Refusal for a text shorter than a crop.
    """
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long() if text else torch.empty(0).long()
    if batch < 1 or not 1 < length <= len(data) + 1:
        raise Refusal(
            "byte_crops",
            f"batch >= 1 and 2 <= length <= {len(data) + 1} (the text in bytes, and BOS)",
            f"{batch=}, {length=}",
            "use a longer text or shorter crops",
        )
    starts = torch.randint(len(data) - length + 2, (batch, 1), generator=torch.Generator().manual_seed(seed))
    crops = data[starts + torch.arange(length - 1)]
    return torch.cat((torch.full((batch, 1), BYTE_BOS), crops), dim=1)


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Random crops of Python's help topics, a byte a token, each behind a BOS: something to train on.

    length  tokens of a crop, BOS included
    part    "train" is the first nine tenths of the text, "held_out" the rest, which then no crop of "train" shows
    """

    length: int = 64
    part: Literal["all", "train", "held_out"] = "all"

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], None]:
        """``size`` crops, the same for the same seed."""
        parts = (0, seed) if isinstance(seed, int) else tuple(seed)
        return byte_crops(_topics(self.part), size, self.length, seed=1_000_003 * parts[0] + parts[1]), None


@cache
def _topics(part: str) -> str:
    text = load_topics()
    cut = 9 * len(text) // 10
    return {"all": text, "train": text[:cut], "held_out": text[cut:]}[part]

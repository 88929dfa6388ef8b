"""Handwritten digits, 8 x 8: the images that come with scikit-learn, with a seeded split, as data and as a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal

Part = Literal["train", "test", "all"]
Labels = Literal["true", "random"]
Fold = Literal["all", "first half", "second half"]
#: Images in the data set, and those of them that `digits` holds out.
COUNT, HELD_OUT = 1797, 360
#: Digits from 0 to 9.
CLASSES = 10


def digits(
    part: Part = "all", *, seed: int = 0, held_out: int = HELD_OUT
) -> tuple[Float[Tensor, "N 8 8"], Int[Tensor, " N"]]:
    """Images, grey values from 0 (paper) to 1 (ink), and the digits they show.

    part      "train" or "test", which share no image, or "all" 1797 in the order of the file
    seed      of the permutation that divides them; with the same seed always the same split
    held_out  images in "test"

    The files hold 17 grey values, 0 to 16; here they are divided by 16. Raises Refusal for another part and for a
    split that leaves one side empty.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI, CC BY 4.0), its test set, as
    scikit-learn ships it.
    """
    if part not in get_args(Part):
        raise Refusal("digits", f"a part of {get_args(Part)}", repr(part), "choose one of them")
    if not 1 <= held_out < COUNT:
        raise Refusal("digits", f"1 to {COUNT - 1} held-out images", str(held_out), f"the usual number is {HELD_OUT}")
    images, labels = _files()
    if part == "all":
        return images.clone(), labels.clone()
    order = np.random.default_rng(seed).permutation(COUNT)
    chosen = torch.from_numpy(order[:held_out] if part == "test" else order[held_out:])
    return images[chosen], labels[chosen]


@cache
def _files() -> tuple[Float[Tensor, "N 8 8"], Int[Tensor, " N"]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.images.astype(np.float32) / 16), torch.from_numpy(bunch.target.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Classifying the digits: what `gatescope.train` needs to train on them.

    labels      "true"; or "random": every image has a label drawn uniformly from the ten, once, which says nothing
                about it, so that it can only be learnt by heart (Zhang et al. 2016)
    split_seed  of the split that `digits` makes
    label_seed  of the random labels
    held_out    images that are not trained on
    noise       standard deviation of what is added to every pixel, drawn anew for every batch, so that reading is hard
    fold        the training images that are learnt from: "all", or one of two halves that share none, so that a search
                can validate on the other

    Raises Refusal for other labels or folds and a noise below 0.
    """

    labels: Labels = "true"
    split_seed: int = 0
    label_seed: int = 0
    held_out: int = HELD_OUT
    noise: float = 0.0
    fold: Fold = "all"

    def __post_init__(self) -> None:
        if self.labels not in get_args(Labels):
            raise Refusal("Digits", f"labels of {get_args(Labels)}", repr(self.labels), "choose one of them")
        if self.fold not in get_args(Fold):
            raise Refusal("Digits", f"a fold of {get_args(Fold)}", repr(self.fold), "choose one of them")
        if not self.noise >= 0:
            raise Refusal("Digits", "noise >= 0", f"{self.noise}", "0 leaves the images as they are")

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Float[Tensor, "B 8 8"], Int[Tensor, " B"]]:
        """``size`` training images, drawn with replacement, and their labels; the same for the same ``seed``.

        Raises Refusal for a size below 1.
        """
        if size < 1:
            raise Refusal("Digits.batch", "size >= 1", f"{size}", "ask for at least one image")
        images, labels = self.train
        rng = np.random.default_rng(seed)
        chosen = torch.from_numpy(rng.integers(0, len(labels), size))
        return self._noisy(images[chosen], rng), labels[chosen]

    def _noisy(self, images: Float[Tensor, "N 8 8"], rng: np.random.Generator) -> Float[Tensor, "N 8 8"]:
        if not self.noise:
            return images
        return images + self.noise * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))

    @cached_property
    def train(self) -> tuple[Float[Tensor, "N 8 8"], Int[Tensor, " N"]]:
        """The training images of the fold, with the labels that are learnt."""
        images, labels = digits("train", seed=self.split_seed, held_out=self.held_out)
        if self.labels == "random":
            drawn = np.random.default_rng(self.label_seed).integers(0, CLASSES, len(labels))
            labels = torch.from_numpy(drawn)
        half = len(labels) // 2
        own = {"all": slice(None), "first half": slice(half), "second half": slice(half, None)}[self.fold]
        return images[own], labels[own]

    @cached_property
    def test(self) -> tuple[Float[Tensor, "N 8 8"], Int[Tensor, " N"]]:
        """The held-out images, noise of ``split_seed`` on them, with their true labels."""
        images, labels = digits("test", seed=self.split_seed, held_out=self.held_out)
        return self._noisy(images, np.random.default_rng((self.split_seed, 1))), labels

    def nll(self, model: nn.Module, images: Float[Tensor, "B 8 8"], labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Negative log-likelihood of each label, in nats: -log softmax(model(images))[label]."""
        return functional.cross_entropy(model(images), labels, reduction="none")


__all__ = ["CLASSES", "Digits", "digits"]

"""Digits: the files as they are, a split that shares nothing, and random labels that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks import Digits, digits
from jaxtyping import TypeCheckError
from sklearn.datasets import load_digits


def test_all_images_are_those_of_the_files() -> None:
    images, labels = digits()
    bunch = load_digits()
    assert images.shape == (1797, 8, 8)
    assert np.array_equal(images.numpy() * 16, bunch.images)
    assert np.array_equal(labels.numpy(), bunch.target)
    images.zero_()
    assert digits()[0].max() == 1


def test_a_split_shares_nothing_and_loses_nothing() -> None:
    parts = [digits(part, seed=3) for part in ("train", "test")]
    assert [len(labels) for _, labels in parts] == [1437, 360]
    joined, whole = torch.cat([images for images, _ in parts]), digits()[0]
    assert torch.equal(joined.flatten(1).sum(1).sort().values, whole.flatten(1).sum(1).sort().values)
    assert torch.equal(parts[1][0], digits("test", seed=3)[0])
    assert not torch.equal(parts[1][0], digits("test", seed=4)[0])


def test_same_seed_same_batch() -> None:
    task = Digits()
    first, again = task.batch((3, 7), 16), task.batch((3, 7), 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], task.batch((3, 8), 16)[0])


def test_random_labels_say_nothing_and_stay() -> None:
    true, random = Digits(), Digits(labels="random")
    assert torch.equal(true.train[0], random.train[0])
    agreeing = (true.train[1] == random.train[1]).float().mean()
    assert 0.07 < agreeing < 0.13
    assert torch.equal(random.train[1], Digits(labels="random").train[1])
    assert not torch.equal(random.train[1], Digits(labels="random", label_seed=1).train[1])
    assert torch.equal(true.test[1], random.test[1])


def test_the_loss_is_that_of_the_label() -> None:
    images, labels = Digits().batch(0, 5)
    uniform = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.nn.init.zeros_(uniform[1].weight)
    torch.nn.init.zeros_(uniform[1].bias)
    assert Digits().nll(uniform, images, labels).tolist() == pytest.approx([np.log(10)] * 5)


def test_noise_is_new_on_every_batch_and_the_same_for_the_same_seed() -> None:
    task, plain = Digits(noise=0.5), Digits()
    noise = task.batch((3, 7), 400)[0] - plain.batch((3, 7), 400)[0]
    assert torch.equal(task.batch((3, 7), 400)[1], plain.batch((3, 7), 400)[1])
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(task.batch((3, 7), 9)[0], task.batch((3, 7), 9)[0])
    assert not torch.equal(task.batch((3, 7), 9)[0], task.batch((3, 8), 9)[0])
    assert float((task.test[0] - plain.test[0]).std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(task.train[0], plain.train[0])


def test_more_can_be_held_out() -> None:
    task = Digits(held_out=720, split_seed=2)
    assert [len(task.train[1]), len(task.test[1])] == [1077, 720]
    assert torch.equal(task.test[0], digits("test", seed=2, held_out=720)[0])


def test_refusals() -> None:
    with pytest.raises(Refusal, match=r"noise >= 0, got -1\.0"):
        Digits(noise=-1.0)
    # The shape checker of tests may be faster.
    with pytest.raises((Refusal, TypeCheckError), match="part"):
        digits("validation")  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="held-out"):
        digits("test", held_out=1797)
    with pytest.raises((Refusal, TypeCheckError), match="labels"):
        Digits(labels="shuffled")  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="size >= 1"):
        Digits().batch(0, 0)


def test_halves_share_no_image_and_are_the_whole() -> None:
    whole, first, second = (Digits(fold=fold).train for fold in ("all", "first half", "second half"))
    assert torch.equal(torch.cat([first[0], second[0]]), whole[0])
    assert torch.equal(torch.cat([first[1], second[1]]), whole[1])
    assert abs(len(first[1]) - len(second[1])) <= 1
    with pytest.raises((Refusal, TypeCheckError), match="fold"):
        Digits(fold="third half")

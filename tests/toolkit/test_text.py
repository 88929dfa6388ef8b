"""Texts that every machine has: fixed, seeded, refused when there is nothing to read."""

import hashlib

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks.text import (
    BYTE_BOS,
    BYTE_VOCAB,
    TEXTS,
    Bytes,
    byte_crops,
    load_topics,
    prose,
    random_tokens,
    story,
)


def test_the_texts_never_change_because_published_numbers_were_measured_on_them():
    everything = "\0".join(f"{name}\0{text.text}" for name, text in sorted(TEXTS.items()))
    assert (
        hashlib.sha256(everything.encode()).hexdigest()
        == "ad9fe1689b84c1d5cc757a7b9bdcccc6a73a1b85ff24d151f37cfa76e32a737e"
    )


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_says_what_it_is_for(name):
    text = TEXTS[name]
    assert text.name == name
    assert text.text.strip()
    assert text.purpose.isprintable()
    assert text.licence == "Apache-2.0"


def test_story_and_prose_are_in_the_table():
    assert (story(), prose()) == (TEXTS["story"].text, TEXTS["prose"].text)


def test_the_shuffled_text_has_the_words_of_the_story_in_another_order():
    assert sorted(TEXTS["shuffled"].text.split()) == sorted(story().split())
    assert TEXTS["shuffled"].text.split() != story().split()


def test_random_tokens_follow_their_seed_and_stay_in_range():
    one = random_tokens(100, 500, seed=0, first=17)
    assert one.shape == (1, 500)
    assert torch.equal(one, random_tokens(100, 500, seed=0, first=17))
    assert not torch.equal(one, random_tokens(100, 500, seed=1, first=17))
    assert one.min() == 17
    assert one.max() == 99


def test_topics_are_english_and_cut_where_asked():
    text = load_topics()
    assert len(text) > 300_000
    assert text.count(" the ") > 2_000
    assert load_topics(1_000) == text[:1_000]


def test_byte_crops_are_bytes_of_the_text_after_a_bos():
    text = "naïve café, " * 20
    crops = byte_crops(text, batch=6, length=17, seed=3)
    assert crops.shape == (6, 17)
    assert crops.max() == BYTE_BOS == BYTE_VOCAB - 1
    assert (crops[:, 0] == BYTE_BOS).all()
    for crop in crops[:, 1:].tolist():
        assert bytes(crop) in text.encode()
    assert torch.equal(crops, byte_crops(text, batch=6, length=17, seed=3))
    assert not torch.equal(crops, byte_crops(text, batch=6, length=17, seed=4))


def test_a_crop_may_be_the_whole_text_and_starts_are_uniform():
    assert byte_crops("abc", batch=1, length=4, seed=0).tolist() == [[BYTE_BOS, *b"abc"]]
    second = byte_crops("abcd", batch=400, length=3, seed=0)[:, 1]
    counts = torch.bincount(second - ord("a"), minlength=3)
    assert len(counts) == 3
    assert counts.min() > 90


def test_parts_of_the_topics_do_not_meet_and_are_all_of_it():
    text = load_topics().encode()
    whole = bytes(Bytes(length=len(text) + 1).batch(0, 1)[0][0, 1:].tolist())
    cut = text.decode()[: 9 * len(load_topics()) // 10].encode()
    train = bytes(Bytes(length=len(cut) + 1, part="train").batch(0, 1)[0][0, 1:].tolist())
    rest = bytes(Bytes(length=len(text) - len(cut) + 1, part="held_out").batch(0, 1)[0][0, 1:].tolist())
    assert whole == text == train + rest


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_tokens(10, 0, seed=0), "length >= 1"),
        (lambda: random_tokens(10, 5, seed=0, first=10), "vocab > first"),
        (lambda: load_topics(0), "got 0"),
        (lambda: load_topics(10**9), "ask for fewer"),
        (lambda: byte_crops("", batch=1, length=2, seed=0), "longer text"),
        (lambda: byte_crops("abc", batch=1, length=5, seed=0), "length <= 4"),
        (lambda: byte_crops("abc", batch=0, length=2, seed=0), "batch >= 1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(Refusal, match=words):
        call()

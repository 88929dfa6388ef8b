"""The bench of Scope compares equal results, and what it times is lean."""

from __future__ import annotations

import gatescope.scope_bench as scope_bench
import pytest
import torch
from gatescope.probes import Entropy, Sinks
from gatescope.scope import Scope
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.bench import hold

T = 2048
STATISTICS = {"first_attention", "sink_score", "sink_share", "key_mass", "entropy", "entropy_normalised"}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch):
    # The heads of GPT-2 small, on a narrow and shallow model.
    monkeypatch.setattr(scope_bench, "WIDTH", 96)
    monkeypatch.setattr(scope_bench, "LAYERS", 2)
    scope_bench.gpt2.cache_clear()
    yield
    scope_bench.gpt2.cache_clear()


def test_statistics_agree_with_the_matrices() -> None:
    plain, matrices, step = (hold(contest, rounds=1) for contest in scope_bench.contests("cpu", quick=True))
    assert plain[1].compared == ("logits",)
    assert set(matrices[1].compared) == {"logits", *STATISTICS}
    assert set(step[1].compared) == {"out", *STATISTICS}


def test_transformer_lens_is_named_where_it_is_not_installed() -> None:
    _, contest, _ = scope_bench.contests("cpu", quick=True)
    assert {peer.package for peer in contest.peers.values()} == {"transformer-lens"}


def test_without_transformers_the_bench_says_so(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(scope_bench, "find_spec", lambda name: None)
    assert list(scope_bench.contests("cpu", quick=True)) == []
    assert "pip install transformers" in capsys.readouterr().err


def test_statistics_of_a_long_text_take_little_memory() -> None:
    model, tokens = scope_bench.gpt2(T, "cpu"), scope_bench.tokens(T, "cpu")

    def peak() -> int:
        with torch.no_grad(), Allocations() as allocations:
            model(tokens)
        return allocations.peak

    plain = peak()
    with Scope(model, [Sinks(), Entropy()]):
        assert peak() - plain < 12e6  # the matrix of one head alone has 16.8 MB

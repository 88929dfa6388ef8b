"""Residual norms against their definitions, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import ResidualNorms


def normal(seed, D=6):
    return torch.randn(2, 5, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def given():
    embed, updates = normal(0), [(normal(1), normal(2)), (normal(3), normal(4))]
    first = embed + updates[0][0] + updates[0][1]
    return {"embed": embed, "updates": updates, "hidden": [first, first + updates[1][0] + updates[1][1]]}


def test_every_number_follows_its_definition(measure, given):
    record = measure(ResidualNorms(), given)
    streams = [given["embed"], *given["hidden"]]
    for layer in range(2):
        here, x = record.sel(layer=layer), streams[layer]
        assert here.resid_norm == pytest.approx(np.linalg.norm(streams[layer + 1], axis=-1).mean())
        for part, u in zip(("attention", "mlp"), given["updates"][layer], strict=True):
            sizes = np.linalg.norm(u, axis=-1), np.linalg.norm(x, axis=-1)
            assert here[f"{part}_update_norm"] == pytest.approx(sizes[0].mean())
            assert here[f"{part}_update_ratio"] == pytest.approx((sizes[0] / sizes[1]).mean())
            cosine = torch.nn.functional.cosine_similarity(u, x, dim=-1).mean()
            assert here[f"{part}_update_cosine"] == pytest.approx(float(cosine))


def test_directions_are_told_apart(measure, given):
    x = given["embed"]
    given["updates"][0] = (2 * x, -0.5 * x)
    here = measure(ResidualNorms(), given).sel(layer=0)
    assert (here.attention_update_cosine, here.mlp_update_cosine) == (pytest.approx(1), pytest.approx(-1))
    assert (here.attention_update_ratio, here.mlp_update_ratio) == (pytest.approx(2), pytest.approx(0.5))


def test_a_block_that_does_nothing_has_no_direction(measure, given):
    given["updates"][1] = (torch.zeros(2, 5, 6), given["updates"][1][1])
    here = measure(ResidualNorms(), given).sel(layer=1)
    assert here.attention_update_norm == here.attention_update_ratio == here.attention_update_cosine == 0


def test_normal_streams_have_the_stated_norm(measure, given):
    given = {"embed": normal(0, D=900), "updates": [(normal(1, D=900), normal(2, D=900))], "hidden": [normal(3, D=900)]}
    here = measure(ResidualNorms(), given).sel(layer=0)
    assert here.resid_norm == pytest.approx(30, rel=0.02)
    assert abs(here.attention_update_cosine) < 0.05


def test_an_update_without_a_stream_is_refused(measure, given):
    del given["embed"]
    with pytest.raises(Refusal, match=r"ResidualNorms: wanted the stream that enters .* got 'attention_update' of"):
        measure(ResidualNorms(), given)


def test_a_stream_of_nothing_is_named(measure, given):
    given["hidden"][0][0, 0] = 0
    with pytest.raises(NonFiniteError, match=r"ResidualNorms: .* in layer 1"):
        measure(ResidualNorms(), given)

"""One expert into many: what is kept, what differs from identical copies, and what is refused."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.layers import MoE, MoESpec
from gatescope.surgery import diversify

BASE, SPEC = MoESpec(experts=1, k=1, hidden=40), MoESpec(experts=4, k=1, hidden=40, renormalise=False)
NAMES = ("w_gate", "w_up", "w_down")


def base() -> MoE:
    return MoE(BASE, 30, layer=0, generator=torch.Generator().manual_seed(0)).double()


def made(masked: float, seed: int = 1) -> MoE:
    return diversify(base(), SPEC, masked=masked, generator=torch.Generator().manual_seed(seed))


def test_every_expert_is_the_base_but_for_zeros_of_its_own():
    layer = made(0.3)
    for name in NAMES:
        own, old = getattr(layer, name), getattr(base(), name)
        assert own.dtype == torch.float64
        assert bool(((own == 0) | (own == old)).all())
        assert (own == 0).double().mean((1, 2)).tolist() == pytest.approx([0.3] * 4, abs=0.05)
        masks = own == 0
        both = (masks[0] & masks[1]).double().mean()
        assert float(both) == pytest.approx(0.09, abs=0.03)


def test_without_masks_all_experts_are_the_base_and_the_layer_is_its_function():
    layer, x = made(0.0), torch.randn(2, 9, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    spec = MoESpec(experts=4, k=2, hidden=40)
    whole = diversify(base(), spec, masked=0.0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whole(x), base()(x))
    different = made(0.3)
    assert not torch.allclose(different(x), layer(x))
    assert not torch.equal(different.w_up[0], different.w_up[1])
    assert torch.equal(layer.w_up[0], layer.w_up[1])


def test_the_same_seed_gives_the_same_masks_and_the_base_is_left_alone():
    kept = base()
    diversify(kept, SPEC, masked=0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kept.w_up, base().w_up)
    assert torch.equal(made(0.5).w_down, made(0.5).w_down)
    assert not torch.equal(made(0.5).w_down, made(0.5, seed=2).w_down)
    assert all(weight.requires_grad for weight in made(0.5).parameters())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diversify(MoE(SPEC, 30), SPEC), "a base with one expert, got 4"),
        (lambda: diversify(base(), MoESpec(4, 1, 39)), "got 40 in the base, 39 wanted"),
        (lambda: diversify(base(), SPEC, masked=1.0), r"masked in \[0, 1\), got 1.0"),
    ],
)
def test_what_does_not_go_is_refused(call, words):
    with pytest.raises(Refusal, match=words):
        call()

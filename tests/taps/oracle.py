"""What statistics of attention have to be, from the matrices of transformers' eager attention."""

from __future__ import annotations

from typing import Any

import torch
from gatescope.taps import Event
from torch import Tensor


def check_attention(event: Event, A: Tensor, text: Tensor | None = None, tolerance: float = 1e-5) -> None:
    """Every statistic of ``event`` against the eager matrix A [B H T S], on rows that are text [B T].

    Rows of padding are garbage in both, and not the same: of them only what keys receive in sum is compared, with the
    matrix they have here.
    """
    stats, call = event.stats, event.value
    B, H, T, _ = call.q.shape
    live = torch.ones(B, T, dtype=torch.bool) if text is None else text[:, -T:]
    assert (stats.visible[live] > 0).all()
    A = A[..., : call.k.shape[2]].double() * (stats.visible > 0)[:, None, :, None]
    k = call.k.double().repeat_interleave(H // call.k.shape[1], 1)
    scores = call.q.double() @ k.mT * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    scores = scores.masked_fill(A == 0, -torch.inf)
    lse = scores.logsumexp(-1)
    sink = (1 - A.sum(-1)).clamp(min=0)
    if call.sink is not None:
        lse = torch.logaddexp(lse, call.sink.double()[:, None].expand_as(lse))
    A = torch.where(live[:, None, :, None], A, (scores - lse[..., None]).exp().nan_to_num())
    entropy = -torch.special.xlogy(A, A).sum(-1)
    expected = {"mass": A[..., :1], "entropy": entropy, "lse": lse, "max_logit": scores.amax(-1)}
    if call.sink is not None:
        expected |= {"entropy": entropy - torch.special.xlogy(sink, sink), "sink_mass": sink}
    assert (stats.sink_mass is None) == (call.sink is None)
    for name, value in expected.items():
        found, wanted = (x.double().transpose(1, 2)[live] for x in (getattr(stats, name), value))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")
    torch.testing.assert_close(stats.key_mass.double(), A.sum(2), rtol=1e-5, atol=tolerance)


def eager(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
    """The output of a model whose attention is eager, and its matrices, one a layer that attends."""
    output = model(*args, output_attentions=True, **kwargs)
    return output, [A for A in output.attentions if A is not None]

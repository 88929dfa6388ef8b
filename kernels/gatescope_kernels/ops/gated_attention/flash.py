"""Where torch's CPU flash kernel does the work: which cases, in which calls, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from gatescope_kernels.ops.gated_attention.problem import Problem
from gatescope_kernels.ops.gated_attention.strips import count_strips

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


#: Scores in the widest vector register. On fewer keys the kernel takes a row of NaN for an empty one: output 0, LSE 0.
VECTOR = 16
#: Calls that cost about as much as one strip, where both are small.
CALLS_A_STRIP = 4


class Call(NamedTuple):
    """One call of the kernel: rows of samples see ``keys``; under causality the first row one, and each one more."""

    samples: slice
    rows: slice
    keys: slice

    def of_rows(self, x: Float[Tensor, "B H T C"]) -> Float[Tensor, "b H t C"]:
        """Its share of q or of the output."""
        return x[self.samples, :, self.rows]

    def of_keys(self, x: Float[Tensor, "B G S C"]) -> Float[Tensor, "b G s C"]:
        """Its share of k or v."""
        return x[self.samples, :, self.keys]


def flash_calls(q: Tensor, v: Tensor, problem: Problem) -> tuple[Call, ...] | None:
    """The calls that make up the output; None where the kernel does not know the case, where something is asked that
    needs the scores, and where the calls would be so many and small that strips are faster.

    A call reads the first keys of a document, so padding is known where it stands at the end.
    """
    rule, T, S = problem.visibility, problem.T, problem.S
    causal = rule.causal and T > 1  # which the kernel hides by -inf before it scales
    known = (
        problem.device.type == "cpu"
        and rule.window is None
        and problem.softcap is None
        and (not causal or (T == S and problem.scale > 0))
    )
    if not known or q.shape[-1] != v.shape[-1] or problem.stats & {"entropy", "max_logit", "key_mass"}:
        return None
    if problem.start is None and problem.key_mask is None:
        return (_whole(problem),)
    begins = torch.zeros(problem.B, S, dtype=torch.bool)
    begins[:, 0] = True
    if problem.start is not None:
        begins[:, 1:] = problem.start[:, 1:] != problem.start[:, :-1]
    seen = torch.ones_like(begins) if problem.key_mask is None else problem.key_mask
    if (seen[:, 1:] & ~seen[:, :-1] & ~begins[:, 1:]).any():
        return None
    if (begins == begins[:1]).all() and (seen == seen[:1]).all():
        begins, seen = begins[:1], seen[:1]
    if begins.sum() > CALLS_A_STRIP * count_strips(problem):
        return None
    return tuple(_calls(begins, seen, problem))


def _calls(begins: Bool[Tensor, "b S"], seen: Bool[Tensor, "b S"], problem: Problem) -> Iterator[Call]:
    """One for each document with a key to see, alike samples together; b is 1 where all are alike."""
    plans = []
    for first, upto in zip(begins, pad(seen.cumsum(1), (1, 0)).tolist(), strict=True):
        edges = [*first.nonzero().flatten().tolist(), problem.S]
        plans.append([(i0, i1, upto[i1] - upto[i0]) for i0, i1 in pairwise(edges)])
    b0 = 0
    for plan, alike in groupby(plans):
        b1 = problem.B if len(plans) == 1 else b0 + len(list(alike))
        for i0, i1, length in plan:
            if length:
                rows = slice(0, problem.T) if problem.start is None else slice(i0, i1)
                yield Call(slice(b0, b1), rows, slice(i0, i0 + length))
        b0 = b1


def flash_forward(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    calls: tuple[Call, ...],
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H T"]] | None:
    """Output and LSE; 0 and -inf on rows that no call has. None where the kernel may have lost a NaN."""
    if calls == (_whole(problem),):
        out, lse = _forward(q, k, v, problem)
    else:
        out, lse = torch.zeros_like(q), q.new_full(q.shape[:3], -torch.inf, dtype=problem.dtype)
        for call in calls:
            rows = (call.samples, slice(None), call.rows)
            out[rows], lse[rows] = _forward(call.of_rows(q), call.of_keys(k), call.of_keys(v), problem)
    few = any(call.keys.stop - call.keys.start < VECTOR for call in calls)
    return None if few and (lse == 0).any() else (out, lse)


def flash_backward(
    dout: Float[Tensor, "B H T V"],
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    out: Float[Tensor, "B H T V"],
    lse: Float[Tensor, "B H T"],
    calls: tuple[Call, ...],
    problem: Problem,
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B G S K"], Float[Tensor, "B G S V"]]:
    """dq, dk, dv where the output alone was used.

    With a sink inside Y and L, the kernel's own formula dS = A (dA - dY.Y) holds unchanged.
    """
    if calls == (_whole(problem),):
        return _backward(dout, q, k, v, out, lse, problem)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for call in calls:
        rows, keys = (call.samples, slice(None), call.rows), (call.samples, slice(None), call.keys)
        do, q_rows, y = (call.of_rows(x) for x in (dout, q, out))
        found = _backward(do, q_rows, call.of_keys(k), call.of_keys(v), y, lse[rows], problem)
        dq[rows], dk[keys], dv[keys] = found
    return dq, dk, dv


def _whole(problem: Problem) -> Call:
    return Call(slice(0, problem.B), slice(0, problem.T), slice(0, problem.S))


def _forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    causal = problem.visibility.causal and problem.T > 1
    out, lse = _flash(*_apart((q, k, v), problem), 0.0, causal, scale=problem.scale)
    return out.reshape(q.shape), lse.reshape(q.shape[:3])


def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    causal = problem.visibility.causal and problem.T > 1
    do, q_apart, k_apart, v_apart, y = _apart((dout, q, k, v, out), problem)
    lse = lse.reshape(q_apart.shape[:3])
    dq, dk, dv = _flash_backward(do, q_apart, k_apart, v_apart, y, lse, 0.0, causal, scale=problem.scale)
    if problem.G < problem.H:
        dq, dk, dv = dq.reshape(q.shape), dk.sum(1).view(k.shape), dv.sum(1).view(v.shape)
    return dq, dk, dv


def _apart(tensors: tuple[Tensor, ...], problem: Problem) -> list[Tensor]:
    """[b H . C] and [b G . C] as the kernel reads them: heads that share keys share them by stride.

    The kernel assumes channels of stride 1 without a check, so other layouts are copied.
    """
    H, G = problem.H, problem.G
    tensors = tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)
    if G == H:
        return list(tensors)
    return [
        x.reshape(-1, x.shape[1] // G, *x.shape[2:]).expand(-1, H // G, *(-1 for _ in x.shape[2:])) for x in tensors
    ]

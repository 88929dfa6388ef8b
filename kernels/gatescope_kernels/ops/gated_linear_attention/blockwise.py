"""Gated linear attention in chunks of tokens: matrix products inside a chunk, one state between two chunks.

Legend: b = B H sequences, n chunks of C tokens in each, N = b n, R readers a token (q; with beta also k).
The derivation is in the README.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from gatescope_kernels.ops.gated_linear_attention.pairs import Decays, add_gradients, multiply

#: Tokens of a chunk. Work inside chunks grows with it, the number of sequential steps falls.
CHUNK = 64
#: Numbers of one input worked on at a time: what stays in a cache, and is not asked of the system again and again.
ELEMENTS = 1 << 18


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    g: Float[Tensor, "B H T W"],
    beta: Float[Tensor, "B H T"] | None,
    state: Float[Tensor, "B H K V"],
    scale: float,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """Outputs and the final state, in the dtype of the arguments. O(T (C + K + V) + T K V / C) memory."""
    B, H, T, K = q.shape
    chunk = min(CHUNK, 1 << (T - 1).bit_length())
    span = chunk * max(1, ELEMENTS // (B * H * chunk * max(K, v.shape[-1])))
    inputs = [q, k, v, g] if beta is None else [q, k, v, g, beta[..., None]]
    state, outputs = state.flatten(0, 1), []
    for pieces in zip(*(x.split(span, 2) for x in inputs), strict=True):
        out, state = _Span.apply(chunk, scale, state, *pieces)
        outputs.append(out)
    return torch.cat(outputs, 2), state.unflatten(0, (B, H))


class _Span(torch.autograd.Function):
    """Some chunks on end, from the state [b K V] before them to the one after them."""

    @staticmethod
    def forward(
        ctx: Any, C: int, scale: float, state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, *beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, keys, values, decays, rate = _prepare(C, scale, q, k, v, g, *beta)
        query = x[:, :, 0]
        pairs = multiply(x, keys, decays)
        pairs[:, :, 0].diagonal(dim1=1, dim2=2).copy_((query * keys).sum(-1))
        if rate is None:
            u, w, inverse = values, None, None
        else:
            inverse = _inverse(rate * pairs[:, :, 1])
            u, w = inverse @ (rate * values), inverse @ (rate * keys * decays.since)
        before, final = _carry(state, decays.since[:, -1, :, None], keys * decays.until, u, w)
        out = torch.baddbmm((query * decays.since) @ before, pairs[:, :, 0], u)
        ctx.C, ctx.scale = C, scale
        ctx.save_for_backward(pairs, inverse, None if w is None else u, w, before, final, q, k, v, g, *beta)
        return _tokens(out, q.shape), final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        pairs, inverse, u, w, before, final, *inputs = ctx.saved_tensors
        x, k, v, decays, rate = _prepare(ctx.C, ctx.scale, *inputs)
        u = v if u is None else u
        since, query, dout = decays.since, x[:, :, 0], _chunks(dout, ctx.C)
        dbefore, du = (query * since).mT @ dout, pairs[:, :, 0].mT @ dout
        after, dstate = _carry_back(dfinal, since[:, -1, :, None], k * decays.until, dbefore, du, w)
        if rate is None:
            dv, dreads = du, dout
        else:
            dr = inverse.mT @ du
            missing = v - (k * since) @ before - pairs[:, :, 1] @ u
            dv, drate = rate * dr, (dr * missing).sum(-1, keepdim=True)
            dreads = torch.stack([dout, -dv], 2).flatten(1, 2)

        dx = (dreads @ before.mT).view_as(x).mul_(since[:, :, None])
        dk = (u @ after.mT).mul_(decays.until)
        add_gradients(dx, dk, (dreads @ u.mT).view_as(pairs), x, k, decays)
        # Every decay that a read or a write takes part in scales it: the log-derivatives need no further products.
        dlog = torch.addcmul(query * dx[:, :, 0], k, dk, value=-1)
        if rate is not None:
            dlog.addcmul_(k, dx[:, :, 1])
        states = torch.cat([before.unflatten(0, (final.shape[0], -1))[:, 1:], final[:, None]], 1).flatten(0, 1)
        dlog[:, -1] += (states * after).sum(-1)
        if since.shape[-1] == 1:
            dlog = dlog.sum(-1, keepdim=True)
        dg = dlog.flip(1).cumsum(1).flip(1)

        own = (dout * u).sum(-1, keepdim=True)
        dq = torch.addcmul(dx[:, :, 0], own, k).mul_(ctx.scale)
        dk.addcmul_(own, query)
        grads = [dq, dk, dv, dg]
        if rate is not None:
            dk += dx[:, :, 1]
            grads.append(drate)
        return None, None, dstate, *(_tokens(grad, inputs[0].shape) for grad in grads)


def _prepare(
    C: int, scale: float, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Decays, Tensor | None]:
    """Readers [N C R K], keys [N C K], values [N C V], decays and learning rates [N C 1]."""
    query, k, v, a = _chunks(q * scale, C), _chunks(k, C), _chunks(v, C), _chunks(g.exp(), C, fill=1.0)
    if beta is None:
        return query[:, :, None], k, v, Decays(a), None
    return torch.stack([query, k], 2), k, v, Decays(a), _chunks(beta, C)


def _chunks(x: Float[Tensor, "B H T d"], C: int, fill: float = 0.0) -> Float[Tensor, "N C d"]:
    """Tokens that fill up the last chunk neither decay (a = 1) nor write (k = 0)."""
    missing = -x.shape[2] % C
    if missing:
        x = pad(x, (0, 0, 0, missing), value=fill)
    return x.reshape(-1, C, x.shape[-1])


def _tokens(x: Float[Tensor, "N C d"], shape: torch.Size) -> Float[Tensor, "B H T d"]:
    return x.reshape(*shape[:2], -1, x.shape[-1])[:, :, : shape[2]]


def _steps(x: Float[Tensor, "N ..."], b: int) -> tuple[Float[Tensor, "b ..."], ...]:
    return x.unflatten(0, (b, -1)).unbind(1)


def _carry(
    state: Float[Tensor, "b K V"],
    total: Float[Tensor, "N W 1"],
    written: Float[Tensor, "N C K"],
    u: Float[Tensor, "N C V"],
    w: Float[Tensor, "N C K"] | None,
) -> tuple[Float[Tensor, "N K V"], Float[Tensor, "b K V"]]:
    """The states before each chunk and after the last: S <- total S + written^T u, after u <- u - w S where w is."""
    b, final = state.shape[0], torch.empty_like(state)
    before = state.new_empty(u.shape[0], *state.shape[1:])
    slots = [*_steps(before, b), final]
    slots[0].copy_(state)
    if w is None:
        for i, (decay, added) in enumerate(zip(_steps(total, b), _steps(written.mT @ u, b), strict=True)):
            torch.addcmul(added, decay, slots[i], out=slots[i + 1])
        return before, final
    for i, (decay, k, u_i, w_i) in enumerate(zip(*(_steps(x, b) for x in (total, written, u, w)), strict=True)):
        u_i.baddbmm_(w_i, slots[i], alpha=-1)
        torch.baddbmm(decay * slots[i], k.mT, u_i, out=slots[i + 1])
    return before, final


def _carry_back(
    dfinal: Float[Tensor, "b K V"],
    total: Float[Tensor, "N W 1"],
    written: Float[Tensor, "N C K"],
    dbefore: Float[Tensor, "N K V"],
    du: Float[Tensor, "N C V"],
    w: Float[Tensor, "N C K"] | None,
) -> tuple[Float[Tensor, "N K V"], Float[Tensor, "b K V"]]:
    """Gradients of the states after each chunk and before the first. ``dbefore`` and ``du`` hold what the outputs of
    the chunk itself send back; ``du`` is completed in place."""
    b, first = dfinal.shape[0], torch.empty_like(dfinal, memory_format=torch.contiguous_format)
    after = torch.empty_like(dbefore)
    slots = [first, *_steps(after, b)]
    slots[-1].copy_(dfinal)
    steps = zip(*(_steps(x, b) for x in (total, dbefore)), strict=True)
    if w is None:
        for i, (decay, read) in reversed(list(enumerate(steps))):
            torch.addcmul(read, decay, slots[i + 1], out=slots[i])
        du.baddbmm_(written, after)
        return after, first
    rest = zip(*(_steps(x, b) for x in (written, du, w)), strict=True)
    for i, ((decay, read), (k, du_i, w_i)) in reversed(list(enumerate(zip(steps, rest, strict=True)))):
        du_i.baddbmm_(k, slots[i + 1])
        read.addcmul_(decay, slots[i + 1])
        torch.baddbmm(read, w_i.mT, du_i, alpha=-1, out=slots[i])
    return after, first


def _inverse(a: Float[Tensor, "N C C"]) -> Float[Tensor, "N C C"]:
    """(I + a)^-1 for a strictly lower triangular ``a``."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    return torch.linalg.solve_triangular(a, eye, upper=False, unitriangular=True)

"""Checks of lesson 15. Each runs the learner's kernel on odd sizes under watch, and names the mistake it finds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatescope_lessons.compare import drawn
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l15_fused_gate_kernel.diagnosis import Case, Tiling, fault
from gatescope_lessons.l15_fused_gate_kernel.memory import KernelError
from gatescope_lessons.l15_fused_gate_kernel.oracles import causal_scores, gated_in_the_loop, online_average

_HALF = 2e-3  # of the largest value: two roundings to float16


def _of_a_kernel(check: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """``check`` with what a kernel raises told as a mistake of the learner's."""

    @functools.wraps(check)
    def judged(kernel: Any) -> str | None:
        if not hasattr(kernel, "__getitem__"):
            return "this is a Python function: @triton.jit on the line above makes it a kernel"
        try:
            return check(kernel)
        except KernelError as error:
            return _in_words(str(error))

    return judged


def _in_words(error: str) -> str:
    if "fp16" in error and "fp32" in error:
        return (
            f"exp and sigmoid take float32, and the input was float16: .to(tl.float32) right after the load ({error})"
        )
    return error


def _normal(*shape: int, seed: int) -> Tensor:
    return drawn(*shape, seed=seed).float()


@exercise(
    hints=(
        "Program p begins at element p * BLOCK: i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK).",
        "The last block reaches past n: mask = i < n, in the load and in the store.",
        "x = tl.load(x_ptr + i, mask=i < n, other=0.0).to(tl.float32), and in the end "
        "tl.store(out_ptr + i, tl.sigmoid(x), mask=i < n)",
    ),
    afterword="Every element is read once and written once, and nothing else is touched.",
    needs="triton",
)
@_of_a_kernel
def sigmoid_block(kernel: Any) -> str | None:
    """out = sigmoid(x) of n numbers, a block a program."""
    for n, block, dtype in ((37, 16, torch.float32), (5, 8, torch.float32), (20, 16, torch.float16)):
        x = _normal(n, seed=n).to(dtype)
        x[:2] = torch.tensor([60.0, -60.0])  # far out
        exact = x.double()
        tiling = Tiling((n,), (block,))
        case = Case(
            {"x": x, "out": torch.empty_like(x)},
            tiling.grid,
            ("x", "out", n),
            {"BLOCK": block},
            {"out": exact.sigmoid()},
            {
                "out": {
                    "this is x itself; put it through the sigmoid": exact,
                    "this is sigmoid(-x): the sign in exp(-x) is lost": (-exact).sigmoid(),
                    "this is exp(x) where sigmoid(x) = 1 / (1 + exp(-x)) is asked": exact.exp(),
                }
            },
            tiling,
            rtol=_HALF if dtype == torch.float16 else 1e-4,
        )
        if wrong := fault(kernel, case):
            return f"n = {n}, BLOCK = {block}, {_named(dtype)}: {wrong}"
    return None


@exercise(
    hints=(
        "Two indices: t = program_id(0) * BT + arange(0, BT) as a column [:, None], v likewise as a row [None, :].",
        "Every pointer has strides of its own: y_ptr + t * y_t + v * y_v. The mask is (t < T) & (v < V).",
        "y = tl.load(y_ptr + t * y_t + v * y_v, mask=there, other=0.0); logit likewise; store y * tl.sigmoid(logit)",
    ),
    afterword="The strides are all that a kernel knows of a slice or a transpose, and all that it needs.",
    needs="triton",
)
@_of_a_kernel
def gate_tile(kernel: Any) -> str | None:
    """out = y sigmoid(logit) over tiles of [T, V], none of the three contiguous."""
    for T, V, dtype in ((11, 13, torch.float32), (9, 6, torch.float16)):
        y = _normal(T, V + 3, seed=1).to(dtype)[:, :V]
        logit = _normal(V, T, seed=2).to(dtype).T
        out = torch.empty(T, V + 5, dtype=dtype)[:, :V]
        exact, gate = y.double(), logit.double().sigmoid()
        packed = logit.T.reshape(T, V).double()  # what its memory holds, read row by row
        tiling = Tiling((T, V), (4, 8))
        case = Case(
            {"y": y, "logit": logit, "out": out},
            tiling.grid,
            ("y", "logit", "out", T, V, *y.stride(), *logit.stride(), *out.stride()),
            {"BT": 4, "BV": 8},
            {"out": exact * gate},
            {
                "out": {
                    "the gate is missing: out is y": exact,
                    "y is missing: out is the gate": gate,
                    "the gate must go through a sigmoid": exact * logit.double(),
                    "the sigmoid was taken of the product; the gate is sigmoid(logit), and y stays as it is": (
                        exact * logit.double()
                    ).sigmoid(),
                    "logit is read as if its rows lay one after another; use its strides": exact * packed.sigmoid(),
                    "the gate multiplies 1 - sigmoid: the sign of the logit is lost": exact * (1 - gate),
                }
            },
            tiling,
            ("row", "column"),
            ("T", "V"),
            rtol=_HALF if dtype == torch.float16 else 1e-4,
        )
        if wrong := fault(kernel, case):
            return f"[{T}, {V}], tiles of 4 x 8, {_named(dtype)}: {wrong}"
    return None


@exercise(
    hints=(
        "Keep three numbers: the maximum so far, the sum of exp(score - maximum), and the same sum weighted by value.",
        "When a block raises the maximum from top to higher, both sums shrink by exp(top - higher) before it is added.",
        "Start at top = -inf with sums 0; keys from S on get a score of -inf (other=-float('inf')): exp makes it 0.",
        "higher = tl.maximum(top, tl.max(x, 0)); shrink = tl.exp(top - higher); p = tl.exp(x - higher); "
        "total = total * shrink + tl.sum(p, 0); acc = acc * shrink + tl.sum(p * value, 0); top = higher",
    ),
    afterword="One pass over the row, one block in hand: this is how attention does without the T x T matrix.",
    needs="triton",
)
@_of_a_kernel
def online_softmax(kernel: Any) -> str | None:
    """out[t] = sum_s softmax(score[t])_s value[s], block after block with a running maximum."""
    T, S, block = 3, 37, 16
    spread, value = 3 * _normal(T, S + 4, seed=3)[:, :S], _normal(S, seed=4) + 1
    tried = {
        "": spread,
        "right for small scores, wrong around +300": spread + 300,
        "right for small scores, wrong around -300": spread - 300,
    }
    for said, score in tried.items():
        exact, column = score.double(), value.double()[:, None]

        def average(flaw: str, exact: Tensor = exact, column: Tensor = column) -> Tensor:
            return online_average(exact, column, block, flaw)[:, 0]

        mistakes = {
            "the sums are never rescaled when a block raises the maximum": "both",
            "the sum of the weights is not rescaled when the maximum rises": "sum",
            "the weighted sum of the values is not rescaled when the maximum rises": "average",
            "rescaled the wrong way round: the sums shrink by exp(top - higher), not exp(higher - top)": "upside down",
            "the division by the sum of the weights is missing": "no division",
            "only the last block counts: add to the sums, do not replace them": "last",
            "the lanes past S count as scores of 0: load them as -inf, so that exp makes 0 of them": "padding",
        }
        case = Case(
            {"score": score, "value": value, "out": torch.empty(T)},
            (T,),
            ("score", "value", "out", S, score.stride(0)),
            {"BLOCK": block},
            {"out": average("")},
            {
                "out": {sentence: average(flaw) for sentence, flaw in mistakes.items()}
                | {"this is the plain mean of the values; the scores are not used": column.mean().expand(T)}
            },
            axes=("row",),
        )
        if wrong := fault(kernel, case):
            return f"{said}: {_running_maximum(said)} ({wrong})" if said else f"[{T}, {S}], BLOCK = {block}: {wrong}"
    return None


def _running_maximum(said: str) -> str:
    if "+300" in said:
        return "exp overflows unless the running maximum is subtracted from every score first"
    return "every exp is 0 when the maximum starts at 0; start it at -float('inf')"


_T, _D, _ROWS, _KEYS = 37, 16, 16, 8


@exercise(
    hints=(
        "Load the queries once and loop over tiles of keys, with top and total as vectors [BM] and acc as [BM, D].",
        "scores = tl.dot(q, tl.trans(k)) * scale, then tl.where(s[None, :] <= t[:, None], scores, -float('inf')).",
        "acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v). After the loop: acc / total[:, None].",
        "The gate comes last, once: multiply by tl.sigmoid(logit) of the same rows as q, then store with mask t < T.",
    ),
    afterword="The average before the gate never went to memory: that is the whole of fusing.",
    needs="triton",
)
@_of_a_kernel
def gated_attention(kernel: Any) -> str | None:
    """out = softmax(q k^T scale, causal) v sigmoid(logit), a tile of queries a program."""
    for dtype, grown in ((torch.float32, 1.0), (torch.float32, 60.0), (torch.float16, 1.0)):
        q, k, v, logit = (_normal(_T, _D, seed=seed).to(dtype) for seed in (5, 6, 7, 8))
        q, scale = q * grown, _D**-0.5
        wanted, mistakes = _attention(*(x.double() for x in (q, k, v, logit)), scale)
        case = Case(
            {"q": q, "k": k, "v": v, "logit": logit, "out": torch.empty_like(q)},
            (-(-_T // _ROWS),),
            ("q", "k", "v", "logit", "out", _T, scale),
            {"D": _D, "BM": _ROWS, "BN": _KEYS},
            {"out": wanted},
            {"out": mistakes},
            axes=("query", "channel"),
            rtol=5e-3 if dtype == torch.float16 else 1e-4,
        )
        wrong = fault(kernel, case)
        if wrong and grown > 1:
            return f"right for small scores, wrong for scores in the hundreds: is the maximum subtracted? ({wrong})"
        if wrong:
            return _strictly_causal(kernel, case) or f"T = {_T}, BM = {_ROWS}, BN = {_KEYS}, {_named(dtype)}: {wrong}"
    return None


def _attention(q: Tensor, k: Tensor, v: Tensor, logit: Tensor, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The right result, and what known mistakes give."""
    scores, gate = causal_scores(q, k, scale), logit.sigmoid()
    right = online_average(scores, v, _KEYS)

    def seen(ahead: int | None, scale: float = scale) -> Tensor:
        return causal_scores(q, k, scale, ahead).softmax(-1) @ v * gate

    in_loop = "the gate stands inside the loop and multiplies once for every tile of keys; it belongs after the loop"
    found = {
        "the gate is missing, or divided out again: it comes after the division by total": right,
        "the gate must go through a sigmoid": right * logit,
        "the future is seen: there is no causal mask": seen(None),
        "the causal mask is off by one: a query sees the key after its own": seen(1),
        "the scores are not scaled by `scale`": seen(0, 1.0),
        "the gate multiplies the values, with the logits of the keys' rows; it belongs to the query's row": (
            online_average(scores, v * gate, _KEYS)
        ),
        in_loop: gated_in_the_loop(scores, v, gate, _ROWS, _KEYS, early=True),
        f"{in_loop}.": gated_in_the_loop(scores, v, gate, _ROWS, _KEYS, early=False),
    }
    flaws = {
        "neither acc nor total is rescaled when a tile raises the maximum": "both",
        "total is not rescaled when a tile raises the maximum": "sum",
        "acc is not rescaled when a tile raises the maximum: acc = acc * shrink[:, None] + ...": "average",
        "rescaled the wrong way round: exp(top - higher), not exp(higher - top)": "upside down",
        "the division by total is missing: the gate may not come before it": "no division",
        "only the last tile of keys counts: add to acc and total, do not replace them": "last",
    }
    found |= {said: online_average(scores, v, _KEYS, flaw) * gate for said, flaw in flaws.items()}
    return right * gate, {said: value for said, value in found.items() if torch.isfinite(value).all()}


def _strictly_causal(kernel: Any, case: Case) -> str | None:
    """Whether every query but the first, which then sees nothing, lacks its own key."""
    q, k, v, logit = (case.tensors[name].double() for name in ("q", "k", "v", "logit"))
    given = case.start(kernel).tensors["out"].double()[1:]
    strict = causal_scores(q, k, _D**-0.5, -1)[1:].softmax(-1) @ v * logit[1:].sigmoid()
    if torch.allclose(given, strict, rtol=case.rtol, atol=case.rtol):
        return "the causal mask is off by one: a query must see its own key (s <= t), and the first sees nothing else"
    return None


@exercise(
    hints=(
        "out = y g with g = sigmoid(logit). What multiplies y in out is what multiplies dout in dy.",
        "The derivative of the sigmoid is g (1 - g).",
        "dy = dout * g; dlogit = dout * y * g * (1 - g). Compute g again from logit: cheaper than storing it.",
    ),
    afterword="Where a gate is shut or wide open, g (1 - g) is nearly 0: it learns slowly there, whatever y is.",
    needs="triton",
)
@_of_a_kernel
def gate_backward(kernel: Any) -> str | None:
    """dy and dlogit of out = y sigmoid(logit)."""
    for n, block, dtype in ((37, 16, torch.float32), (20, 16, torch.float16)):
        dout, y, logit = (_normal(n, seed=seed).to(dtype) for seed in (9, 10, 11))
        d, exact, gate = dout.double(), y.double(), logit.double().sigmoid()
        slope, tiling = gate * (1 - gate), Tiling((n,), (block,))
        case = Case(
            {"dout": dout, "y": y, "logit": logit, "dy": torch.empty_like(y), "dlogit": torch.empty_like(y)},
            tiling.grid,
            ("dout", "y", "logit", "dy", "dlogit", n),
            {"BLOCK": block},
            {"dy": d * gate, "dlogit": d * exact * slope},
            {
                "dy": {
                    "dout alone: y reached out through the gate, and so does its gradient": d,
                    "this is dout y; the derivative of y g by y is g": d * exact,
                    "this is dout y g; by y the derivative is g alone": d * exact * gate,
                    "these are the numbers of dlogit: are the two results swapped?": d * exact * slope,
                    "the gate went through no sigmoid": d * logit.double(),
                },
                "dlogit": {
                    "this is the gradient of the gate; go on through its sigmoid, times g (1 - g)": d * exact,
                    "the derivative of the sigmoid is g (1 - g), not g": d * exact * gate,
                    "the derivative of the sigmoid is g (1 - g), not 1 - g": d * exact * (1 - gate),
                    "y is missing: out = y g, so a change of g is multiplied by y": d * slope,
                    "this takes out for y: out holds the gate already, which now counts twice": d
                    * exact
                    * gate
                    * slope,
                    "these are the numbers of dy: are the two results swapped?": d * gate,
                },
            },
            tiling,
            rtol=_HALF if dtype == torch.float16 else 1e-4,
        )
        if wrong := fault(kernel, case):
            return f"n = {n}, BLOCK = {block}, {_named(dtype)}: {wrong}"
    return None


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Every implementation of every op against its fp64 reference: values and gradients, over the whole table."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels import Refusal
from gatescope_kernels.ops._table import OPS, Case, Op
from torch import Tensor

INTERPRETED = (torch.float32, torch.float16)
DTYPES = (*INTERPRETED, torch.bfloat16)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: On a GPU kernels compute in all three dtypes; the interpreter gets bfloat16 wrong and refuses it.
FUSED_DTYPES = DTYPES if DEVICE == "cuda" else INTERPRETED
ROWS = [
    pytest.param(op, case, impl, dtype, id=f"{op.name}-{case.name}-{impl}-{str(dtype).removeprefix('torch.')}")
    for op in OPS.values()
    for impl in op.implementations
    if impl != "reference"
    for case in op.cases
    if impl != "fused" or case.name not in op.unfused
    for dtype in (FUSED_DTYPES if impl == "fused" else (torch.float64, *DTYPES))
]
REFUSED = [
    pytest.param(op, case, id=f"{op.name}-{case.name}")
    for op in OPS.values()
    for case in op.cases
    if case.name in op.unfused
]


def run(op: Op, case: Case, impl: str, dtype: torch.dtype, compute: torch.dtype) -> tuple[dict, dict]:
    """Results and gradients by name. Inputs are rounded to ``dtype``; the arithmetic is done in ``compute``."""
    inputs = {
        name: x.to(DEVICE, compute if x.is_floating_point() else x.dtype).detach() if isinstance(x, Tensor) else x
        for name, x in op.inputs(case, dtype, seed=0).items()
    }
    leaves = {name: inputs[name].requires_grad_() for name in op.differentiable if isinstance(inputs.get(name), Tensor)}
    outputs = op.call(impl, inputs)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(outputs[name].shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        for name in op.outputs
        if name in outputs
    }
    used = {name: x for name, x in outputs.items() if x.requires_grad}
    loss = sum(
        (x.masked_fill(x == -torch.inf, 0.0).double() * weights[name].double()).sum() for name, x in used.items()
    )
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {name: x.detach().double() for name, x in outputs.items()}, dict(
        zip(leaves, (grad.double() for grad in grads), strict=True)
    )


def assert_within(budget: float, got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, reference in wanted.items():
        finite = reference != -torch.inf
        assert torch.equal(got[name] == -torch.inf, ~finite), f"{name}: empty rows differ"
        error = (got[name] - reference).masked_fill(~finite, 0.0).abs().max().item()
        size = max(1.0, reference.masked_fill(~finite, 0.0).abs().max().item())
        assert error <= budget * size, f"{name}: {error / size:.2e} > {budget:.0e} (relative to {size:.3g})"


@pytest.mark.parametrize(("op", "case", "impl", "dtype"), ROWS)
def test_matches_fp64_reference(op: Op, case: Case, impl: str, dtype: torch.dtype, poisoned_empty: None) -> None:
    """Also: no uninitialised memory is read, which is NaN here."""
    wanted, wanted_grads = run(op, case, "reference", dtype, torch.float64)
    got, got_grads = run(op, case, impl, dtype, dtype)
    budget = op.budget | op.fused_budget if impl == "fused" else op.budget
    assert_within(budget[dtype] * case.error_scale, got, wanted)
    assert_within(op.gradient_budget[dtype] * case.error_scale, got_grads, wanted_grads)


@pytest.mark.parametrize("impl", ["reference", "blockwise", "fused"])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_results_have_the_dtypes_the_row_says(op: Op, impl: str) -> None:
    """The kernels on one case, which is slow to interpret; the others on all."""
    dtype = torch.float16 if impl == "fused" and DEVICE == "cpu" else torch.bfloat16
    for case in op.cases[:1] if impl == "fused" else op.cases:
        inputs = {
            name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in op.inputs(case, dtype, seed=0).items()
        }
        for name, x in op.call(impl, inputs).items():
            assert x.dtype == (dtype if name in op.low_precision else torch.float32), (case.name, name)


@pytest.mark.parametrize(("op", "case"), REFUSED)
def test_fused_says_what_it_does_not_know(op: Op, case: Case) -> None:
    with pytest.raises(Refusal, match="for impl='fused'"):
        op.call("fused", op.inputs(case, torch.float32, seed=0))

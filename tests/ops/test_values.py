"""Every implementation of every op against its fp64 reference: values and gradients, over the whole table."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels.ops._table import OPS, Case, Op
from torch import Tensor

ROWS = [
    pytest.param(op, case, impl, id=f"{op.name}-{case.name}-{impl}")
    for op in OPS.values()
    for case in op.cases
    for impl in op.implementations
    if impl != "reference"
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(op: Op, case: Case, impl: str, dtype: torch.dtype, compute: torch.dtype) -> tuple[dict, dict]:
    """Results and gradients by name. Inputs are rounded to ``dtype``; the arithmetic is done in ``compute``."""
    inputs = {
        name: x.to(compute).detach() if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in op.inputs(case, dtype, seed=0).items()
    }
    leaves = {name: inputs[name].requires_grad_() for name in op.differentiable if isinstance(inputs.get(name), Tensor)}
    outputs = op.call(impl, inputs)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(outputs[name].shape, generator=generator, dtype=torch.float64).to(dtype)
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


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("op", "case", "impl"), ROWS)
def test_matches_fp64_reference(op: Op, case: Case, impl: str, dtype: torch.dtype) -> None:
    wanted, wanted_grads = run(op, case, "reference", dtype, torch.float64)
    got, got_grads = run(op, case, impl, dtype, dtype)
    assert_within(op.budget[dtype] * case.error_scale, got, wanted)
    assert_within(op.gradient_budget[dtype] * case.error_scale, got_grads, wanted_grads)


@pytest.mark.parametrize(("op", "case", "impl"), ROWS)
def test_reads_no_uninitialised_memory(op: Op, case: Case, impl: str, poisoned_empty: None) -> None:
    outputs, grads = run(op, case, impl, torch.float32, torch.float32)
    assert not [name for name, x in (outputs | grads).items() if x.isnan().any()]


@pytest.mark.parametrize(("op", "case", "impl"), ROWS)
def test_results_have_the_dtypes_the_row_says(op: Op, case: Case, impl: str) -> None:
    outputs = op.call(impl, op.inputs(case, torch.bfloat16, seed=0))
    for name, x in outputs.items():
        assert x.dtype == (torch.bfloat16 if name in op.low_precision else torch.float32), name

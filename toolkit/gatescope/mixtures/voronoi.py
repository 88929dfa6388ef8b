"""Whose expert is it? Fitted experts sorted into the Voronoi cells of the true ones, and errors cell by cell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.mixtures.mixture import GaussianMoE

#: Exponent of a cell by how many experts it holds: solvability of a system of polynomials (Ho and Nguyen 2016, 2019).
_EXPONENT = {1: 1, 2: 4, 3: 6}
#: Experts in the fullest cell whose exponent is known.
LARGEST_CELL = max(_EXPONENT)
#: The parameter groups that `cell_errors` returns.
GROUPS = ("gate slope", "slope", "intercept", "scale")


def voronoi_cells(fitted: GaussianMoE, truth: GaussianMoE) -> Int[Tensor, "R E"]:
    """For every fitted expert the true one whose (w, a, c, s) is nearest to its own, Euclidean.

    Source: Nguyen et al. 2023 (arXiv 2309.13850), section 2. ``truth`` has R = 1.
    """
    return torch.cdist(_theta(fitted), _theta(truth).expand(fitted.slope.shape[0], -1, -1)).argmin(-1)


def cell_sizes(fitted: GaussianMoE, truth: GaussianMoE) -> Int[Tensor, "R cell"]:
    """How many fitted experts every true one has in its cell, see `voronoi_cells`."""
    return _count(voronoi_cells(fitted, truth), truth)


def cell_errors(
    fitted: GaussianMoE, truth: GaussianMoE, *, shared: bool
) -> tuple[Float[Tensor, "R group"], Bool[Tensor, " R"]]:
    """Error of the parameters in cells with one expert or, with ``shared``, in cells with two or more.

        sqrt(sum_e p_e |theta_e - theta*|^2),    p_e proportional to exp(b_e / tau), over the experts of such cells

    An expert without weight may stand anywhere without harm, so weights count, as in the Voronoi loss. Returns the
    error of each of GROUPS (NaN where a fit has no such cell) and where a fit has one.
    """
    cells = voronoi_cells(fitted, truth)
    count = _count(cells, truth)
    held = count.gather(1, cells)
    inside = held > 1 if shared else held == 1
    weight = _mass(fitted) * inside
    weight = weight / weight.sum(-1, keepdim=True)
    errors = (weight[..., None] * _differences(fitted, truth, cells) ** 2).sum(1).sqrt()
    return errors, inside.any(-1)


def voronoi_loss(fitted: GaussianMoE, truth: GaussianMoE) -> Float[Tensor, " R"]:
    """The loss between mixing measures that the maximum-likelihood estimate is proved to lower as n^-1/2.

        sum_j |sum_{e in cell j} p_e - p*_j| + sum_{cells of one} p_e (|dw| + |da| + |dc| + |ds|)
        + sum_{cells of m > 1} p_e (|dw|^r + |da|^(r/2) + |dc|^r + |ds|^(r/2)),    r(2) = 4, r(3) = 6, p = exp(b / tau)

    From |dw|^4 of n^-1/2 follows |dw| of n^-1/8. Raises Refusal for a cell with more than three experts, whose
    exponent is not known. The last expert is the reference of both, so no common shift has to be searched.

    Source: Nguyen et al. 2023 (arXiv 2309.13850), section 3; written from its abstract and the polynomial exponents of
    Ho and Nguyen, a reconstruction.
    """
    cells = voronoi_cells(fitted, truth)
    count = _count(cells, truth)
    if int(count.max()) > LARGEST_CELL:
        wanted = f"at most {LARGEST_CELL} experts in a cell"
        raise Refusal("voronoi_loss", wanted, f"{int(count.max())}", "fit fewer experts, or read cell_errors")
    mass, true_mass = _mass(fitted), _mass(truth)
    merged = torch.zeros_like(count, dtype=mass.dtype).scatter_add_(1, cells, mass)
    held = count.gather(1, cells)
    full = torch.tensor([float("nan"), *(float(_EXPONENT[m]) for m in sorted(_EXPONENT))], dtype=mass.dtype)[held]
    half = torch.where(held == 1, 1.0, full / 2)
    powers = torch.stack([full, half, full, half], -1)
    return (merged - true_mass).abs().sum(-1) + (mass[..., None] * _differences(fitted, truth, cells) ** powers).sum(
        (1, 2)
    )


def _count(cells: Int[Tensor, "R E"], truth: GaussianMoE) -> Int[Tensor, "R cell"]:
    none = torch.zeros(cells.shape[0], truth.n_experts, dtype=torch.long)
    return none.scatter_add_(1, cells, torch.ones_like(cells))


def _theta(mixture: GaussianMoE) -> Float[Tensor, "R E P"]:
    scale = mixture.log_scale.exp()[..., None]
    return torch.cat([mixture.gate_slope, mixture.slope, mixture.intercept[..., None], scale], -1)


def _mass(mixture: GaussianMoE) -> Float[Tensor, "R E"]:
    return (mixture.gate_bias * torch.exp(-mixture.log_temperature)[:, None]).exp()


def _differences(fitted: GaussianMoE, truth: GaussianMoE, cells: Int[Tensor, "R E"]) -> Float[Tensor, "R E group"]:
    inputs = fitted.slope.shape[-1]
    difference = _theta(fitted) - _theta(truth)[0][cells]
    gate, slope, intercept, scale = difference.split([inputs, inputs, 1, 1], -1)
    return torch.stack([part.norm(dim=-1) for part in (gate, slope, intercept, scale)], -1)

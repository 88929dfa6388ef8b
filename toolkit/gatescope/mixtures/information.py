"""What one sample tells about each parameter: the Fisher information, and directions about which it tells nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.mixtures.mixture import GaussianMoE
from gatescope.mixtures.polish import flat_parameters, mixture_of


def fisher_information(
    mixture: GaussianMoE, x: Float[Tensor, "1 n D"], y: Float[Tensor, "1 n"]
) -> Float[Tensor, "P P"]:
    """The mean over samples of score times score transposed, score = d log p(y | x) / d theta, by autograd.

    theta is (w, b) of all experts but the reference, log tau where it is learned, then a, c and log s. An eigenvalue of
    0 is a direction along which the density does not change: no number of samples fixes it. ``mixture`` has R = 1.
    """
    start = torch.tensor(flat_parameters(mixture))

    def log_density(flat: Tensor) -> Tensor:
        return mixture_of(flat, mixture).log_density(x, y)[0]

    scores = torch.autograd.functional.jacobian(log_density, start, strategy="reverse-mode", vectorize=True)
    return scores.mT @ scores / x.shape[1]

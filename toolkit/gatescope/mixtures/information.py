"""What one sample tells about each parameter: the Fisher information, and directions about which it tells nothing."""

from __future__ import annotations

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
    n = x.shape[1]
    # A copy of the parameters a sample: the gradient of the sum is then the score of every sample.
    free = flat_parameters(mixture).repeat(n, 1).requires_grad_()
    mixture_of(free, mixture).log_density(x.transpose(0, 1), y.T).sum().backward()
    scores = free.grad
    assert scores is not None
    return scores.T @ scores / n

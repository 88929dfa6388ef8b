"""Errors of the toolkit. All take the form of `gatescope_kernels.Refusal`: operator, wanted, got, next step."""

from gatescope_kernels import Refusal


class UntappableModelError(Refusal):
    """A model emits no taps that a probe or an intervention needs."""


class DataError(Refusal):
    """A file in data/ or the cache is missing, corrupt or not the one its manifest names."""


class NonFiniteError(Refusal):
    """NaN or infinity where a number was needed."""


__all__ = ["DataError", "NonFiniteError", "Refusal", "UntappableModelError"]

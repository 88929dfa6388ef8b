"""How many keys hold most of a row's attention: the size of its Hopfield state, and the mode a head operates in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.normalisers import state_size
from gatescope.probes._readers import Samples, reader_range
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import AttentionCall, Event

#: Classes of Ramsauer et al. 2020 by k / n, from an average over nearly all keys to nearly a single one.
MODES = ("I", "II", "III", "IV")
#: A row is in the first class whose bound k / n lies above; the last has none.
_BOUNDS = (1 / 2, 1 / 8, 1 / 32)
#: Weights held at once.
_AT_ONCE = 2**21
_SOURCE = "Ramsauer et al. 2020 (arXiv 2008.02217), figure 2 and section 3"
_CLASSES = "I: k > n/2; II: n/8 < k <= n/2; III: n/32 < k <= n/8; IV: k <= n/32 or k = 1"


class StateSize(Probe):
    """How many keys hold ``mass`` of the attention of a row, and in which class that puts it.

        k_i = min{k : the k largest A[i, j] sum to at least mass * sum_j A[i, j]}

    n_i is the number of keys row i can see; a learned sink counts neither here nor in the sum. The classes are those of
    Ramsauer et al. by k / n. They had one n for all rows; here every row has its own, and one key alone is always
    class IV.

    mass         0.9 in the paper
    first_query  first row counted: class IV by its bound alone needs n >= 32
    skip         keys, by their place in the sequence, that are left out as if they had no attention: (0,) for what a
                 head reads besides the first token

    Rows are read a few at a time, so memory does not grow with T x T. Rows that are padding or see no key are left out.
    Raises Refusal when no row is left, and for values out of range.
    """

    name = "state_size"
    sites = frozenset({"attention"})
    stats = frozenset({"visible"})
    quantities = (
        Quantity(
            "state_size",
            ("layer", "head"),
            "keys",
            "keys that hold 90 % of the attention",
            "mean over samples and rows of k_i, the fewest keys whose A[i,j] sum to 0.9 of the row",
            _SOURCE,
            "uniform attention: the mean of 0.9 n_i rounded up",
        ),
        Quantity(
            "state_share",
            ("layer", "head"),
            "1",
            "share of the keys that holds 90 % of the attention",
            "mean over samples and rows of k_i / n_i",
            _SOURCE,
            "uniform attention: 0.9, a little more where n_i is small",
        ),
        Quantity(
            "mode_share",
            ("layer", "head", "mode"),
            "1",
            "share of rows in a class of operating mode",
            f"share of rows with {_CLASSES}",
            _SOURCE,
            "uniform attention: all rows in class I",
        ),
        Quantity(
            "operating_mode",
            ("layer", "head"),
            "1",
            "class of the median row",
            f"class of the median of k_i / n_i, 1 to 4 for {_CLASSES}",
            _SOURCE,
            "uniform attention: 1",
        ),
    )

    def __init__(self, mass: float = 0.9, first_query: int = 1, skip: tuple[int, ...] = ()) -> None:
        super().__init__()
        if not 0 < mass < 1 or first_query < 0 or any(key < 0 for key in skip):
            raise Refusal(
                "StateSize",
                "a mass between 0 and 1, first_query and skipped keys of 0 or more",
                f"mass={mass}, first_query={first_query}, skip={tuple(skip)}",
                "the paper's mass is 0.9; count positions from 0",
            )
        self.mass, self.first_query, self.skip = mass, first_query, tuple(skip)

    def watch(self, event: Event) -> None:
        """Add one attention."""
        call = event.value
        B, H, T, _ = call.q.shape
        samples = Samples.of(call)
        text = text_positions(event, (B, T), call.q.device) & (samples.position >= self.first_query)
        for rows in _chunks(T, max(1, _AT_ONCE // (B * H * call.k.shape[2]))):
            see = self._seen(call, samples, rows)
            n = see.sum(-1)
            counted = text[:, rows] & (n > 0)
            k = state_size(_weights(call, see, rows), self.mass)
            share = k / n.clamp(min=1)[:, None]
            kind = torch.stack([share <= bound for bound in _BOUNDS]).sum(0)
            kind = torch.where(k <= 1, len(_BOUNDS), kind)
            marks = torch.nn.functional.one_hot(kind, len(MODES)) * counted[:, None, :, None]
            self.sums.add(
                event.layer,
                size=torch.where(counted[:, None], k, 0).sum((0, 2)).double(),
                share=torch.where(counted[:, None], share, 0).double().sum((0, 2)),
                modes=marks.sum((0, 2)).double(),
                rows=counted.sum(),
                uniform=torch.where(counted, (self.mass * n).ceil(), 0).sum().double(),
            )

    def finalize(self) -> xr.Dataset:
        """state_size, state_share, mode_share and operating_mode."""
        wanted = ("rows that see a key", "give the model more tokens, or lower first_query")
        modes = self.sums.mean("modes", "rows", *wanted)
        about = {"first_query": self.first_query, "mass": self.mass, "skipped_keys": str(list(self.skip))}
        # The class in which the cumulated share, from single patterns up, passes one half.
        median = len(MODES) - (modes[..., ::-1].cumsum(-1) < 0.5 - 1e-12).sum(-1)
        return self._record(
            {
                "state_size": (
                    self.sums.mean("size", "rows", *wanted),
                    {**about, "baseline_value": self.sums.mean("uniform", "rows", *wanted).mean()},
                ),
                "state_share": (self.sums.mean("share", "rows", *wanted), {**about, "baseline_value": self.mass}),
                "mode_share": (modes, about),
                "operating_mode": (median.astype(np.int64), {**about, "baseline_value": 1.0}),
            },
            mode=list(MODES),
        )

    def _seen(self, call: AttentionCall, samples: Samples, rows: slice) -> Bool[Tensor, "B R S"]:
        """Which keys these rows see and this probe counts."""
        low, high = (bound[:, None] for bound in reader_range(call.visibility, samples.place))
        position = samples.position[:, rows, None]
        see = (position >= low) & (position < high)
        if samples.packed:
            see &= samples.start[:, rows, None] == samples.start[:, None]
        if call.key_mask is not None:
            see &= call.key_mask[:, None]
        for key in self.skip:
            see &= (samples.place != key)[:, None]
        return see


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _weights(call: AttentionCall, see: Bool[Tensor, "B R S"], rows: slice) -> Float[Tensor, "B H R S"]:
    """Attention of these rows over the keys they see, 0 where a row sees none."""
    q, k = call.q[:, :, rows], call.k
    groups = k.shape[1]
    scale = 1 / math.sqrt(q.shape[-1]) if call.scale is None else call.scale
    q = q.unflatten(1, (groups, -1)).to(torch.promote_types(q.dtype, torch.float32))
    scores = scale * torch.einsum("bgrtk,bgsk->bgrts", q, k.to(q.dtype)).flatten(1, 2)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~see[:, None], lowest).softmax(-1) * see[:, None]


__all__ = ["MODES", "StateSize"]

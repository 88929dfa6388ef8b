"""The experiment of lesson 01: sinks, massive activations and their interventions in SmolLM2-135M, text by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.interventions import MaskKeys, WindowWithSinks, ZeroDims
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import Pretrained, load_smollm2
from gatescope.probes import Sinks
from gatescope.reading import read_tokens
from gatescope.records import Quantity
from gatescope.taps import Handler
from gatescope.tasks.text import TEXTS
from jaxtyping import Int
from torch import Tensor

#: Texts that a language model should read with ease, each longer than the widest window below.
NATURAL = ("story", "prose", "letter", "recipe", "dialogue", "code", "numbers")
#: (window, sink tokens) of StreamingLLM's table, scaled to texts of one paragraph.
WINDOWS = ((32, 0), (32, 4), (64, 0), (64, 1), (64, 4))
N_CONTROLS = 4


@torch.no_grad()
def loss(model: torch.nn.Module, tokens: Int[Tensor, "1 T"], intervention: Handler | None = None) -> float:
    """Mean next-token loss of a text, nats a token, under an intervention if one is given."""
    if intervention is None:
        return float(next_token_nll(model, tokens).mean())
    with intervention.on(model):
        return float(next_token_nll(model, tokens).mean())


def massive_site(record: xr.Dataset) -> tuple[int, int]:
    """(layer, dimension) where massive activations first appear by Sun's rule.

    Raises Refusal when no block has one.
    """
    layers = record.layer.values[record.massive_count.values > 0]
    if not len(layers):
        raise Refusal(
            "massive_site",
            "a block with an activation above 100 and 1,000 times the median",
            f"at most {float(record.massive_ratio.max()):.0f} times the median",
            "try a longer text, or a pretrained model",
        )
    layer = int(layers[0])
    return layer, int(record.top_dim.sel(layer=layer).isel(rank=0))


def repeated(tokens: Int[Tensor, "1 T"]) -> Int[Tensor, "1 T"]:
    """The token in the middle of a text, repeated to the text's length: every hidden state is then the same."""
    return tokens[:, tokens.shape[1] // 2, None].expand(-1, tokens.shape[1]).contiguous()


_NLL = Quantity(
    "nll",
    ("setting",),
    "nats",
    "next-token loss",
    "-log p(next token), mean over the text",
    "Sun et al. 2024, table 3; Xiao et al. 2023, tables 1 and 2",
    "uniform guessing: log(vocab)",
)
_REPEATED = Quantity(
    "first_attention_repeated",
    (),
    "1",
    "first-token attention when one token is repeated",
    "mean over layers, heads and rows i >= 1 of A[i,0]",
    "Gu et al. 2024, table 1",
    "uniform causal attention: mean over the same rows of 1/(i+1)",
)
_UNIFORM = Quantity(
    "uniform_attention",
    (),
    "1",
    "first-token attention of uniform attention",
    "mean over rows i >= 1 of 1/(i+1)",
    "metric baseline",
    "itself",
)


def measure_text(pretrained: Pretrained, text: str) -> xr.Dataset:
    """Everything the claims need about one text."""
    model, tokens = pretrained.model, pretrained.tokenizer.prepare(text)
    record = read_tokens(model, tokens, created=False)
    layer, dim = massive_site(record)
    zeroed = ZeroDims([dim], after_layers=[layer])

    def nll(intervention: Handler | None = None) -> float:
        return loss(model, tokens, intervention)

    losses = {
        "full": nll(),
        "zero massive": nll(zeroed),
        "zero random": float(np.mean([nll(zeroed.control(seed)) for seed in range(N_CONTROLS)])),
        "first key masked": nll(MaskKeys([0])),
        **{f"window {w}, {s} sinks": nll(WindowWithSinks(window=w, sink_tokens=s)) for w, s in WINDOWS},
    }
    result = record[[name for name in _KEPT if name in record]].drop_vars("token", errors="ignore")
    result = result.assign_coords(setting=list(losses))
    alike = read_tokens(model, repeated(tokens), created=False)
    uniform = Sinks.uniform_baseline(tokens.shape[1])
    new = {
        "nll": _NLL.variable(
            list(losses.values()), {"setting": list(losses)}, baseline_value=np.log(model.config.vocab)
        ),
        "first_attention_repeated": _REPEATED.variable(float(alike.first_attention.mean()), baseline_value=uniform),
        "uniform_attention": _UNIFORM.variable(uniform),
    }
    kept = record[[name for name in _KEPT if name in record]]
    return records.merge([kept, records.new(new)], **record.attrs)


_KEPT = (
    "first_attention", "sink_share", "entropy_normalised", "value_drain",
    "magnitude_max", "magnitude_median", "massive_ratio", "massive_count", "top_value", "top_token", "top_dim",
)  # fmt: skip


def measure(profile: str = "full", *, texts: Sequence[str] | None = None) -> xr.Dataset:
    """One entry a text (dim ``text``). ``quick`` measures two texts, the other profiles all of NATURAL."""
    names = texts or (NATURAL[:2] if profile == "quick" else NATURAL)
    pretrained = load_smollm2()
    return records.concat(
        [measure_text(pretrained, TEXTS[name].text) for name in names], dim="text", labels=list(names)
    )


MEASURE = measure


def nll(record: xr.Dataset, setting: str) -> np.ndarray:
    """Loss under a setting, one value a text."""
    return record.nll.sel(setting=setting).values


def _share_of_massive_layers(record: xr.Dataset, agrees: xr.DataArray) -> np.ndarray:
    massive = record.massive_count > 0
    return ((massive & agrees).sum("layer") / massive.sum("layer")).values


def _common_dim(record: xr.Dataset) -> int:
    dims = record.top_dim.isel(rank=0).where(record.massive_count > 0).values
    values, counts = np.unique(dims[np.isfinite(dims)], return_counts=True)
    return int(values[counts.argmax()])


#: Name in claims/*.toml -> one effect a text.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "log10_massive_ratio": lambda r: np.log10(r.massive_ratio.max("layer").values),
    "share_of_massive_layers_peaking_at_first_token": lambda r: _share_of_massive_layers(
        r, r.top_token.isel(rank=0) == 0
    ),
    "share_of_massive_layers_peaking_at_common_dim": lambda r: _share_of_massive_layers(
        r, r.top_dim.isel(rank=0) == _common_dim(r)
    ),
    "nll_of_zeroing_massive_over_random": lambda r: nll(r, "zero massive") - nll(r, "zero random"),
    "nll_of_window_32_without_sinks": lambda r: nll(r, "window 32, 0 sinks") - nll(r, "full"),
    "share_of_window_32_damage_left_with_four_sinks": lambda r: (
        (nll(r, "window 32, 4 sinks") - nll(r, "full")) / (nll(r, "window 32, 0 sinks") - nll(r, "full"))
    ),
    "nll_of_one_sink_over_four_window_64": lambda r: nll(r, "window 64, 1 sinks") - nll(r, "window 64, 4 sinks"),
    "first_attention_over_uniform": lambda r: (r.first_attention.mean(("layer", "head")) / r.uniform_attention).values,
    "sink_share": lambda r: r.sink_share.sel(chosen=0).mean(("layer", "head")).values,
    "repeated_token_first_attention_over_text": lambda r: (
        (r.first_attention_repeated / r.first_attention.mean(("layer", "head"))).values
    ),
    "median_value_drain": lambda r: r.value_drain.median(("layer", "kv_head")).values,
}

"""The formed state in SmolLM2-135M: which block writes the massive activation, and what its number is good for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.interventions import SetDims, ZeroDims
from gatescope.models.smollm2 import Pretrained
from gatescope.probes import Massive
from gatescope.records import Quantity
from gatescope.scope import Scope
from gatescope.taps import Event, Handler, attached
from gatescope.tasks.text import TEXTS
from jaxtyping import Float, Int
from torch import Tensor, nn

from gatescope_lessons.l01_where_attention_goes.lab import loss, massive_site

#: Where a number is zeroed that is not the first token's.
OTHER_POSITION = 20
CONTROLS = 3
SETTINGS = ("as it is", "zeroed", "random dims zeroed", "zeroed at token 20", "mean of other texts")
_PARTS = {"attention": "attention_update", "MLP": "mlp_update", "stream": "resid"}
_SUN = "Sun et al. 2024 (arXiv 2402.17762)"


def _of_layer(name: str, long_name: str, formula: str, source: str = _SUN, baseline: str = "any") -> Quantity:
    return Quantity(name, ("layer",), "1", long_name, formula, source, baseline)


_RATIO = _of_layer("formed_ratio", "largest over median magnitude", "see massive_ratio", baseline="normal: about 7")
_MAX = _of_layer("formed_max", "largest magnitude", "see magnitude_max")
_TOKEN = _of_layer("formed_token", "token of the largest magnitude", "see top_token")
_DIM = _of_layer("formed_dim", "dimension of the largest magnitude", "see top_dim")
_PLACE = "at the token and dimension of the largest value of all layers"
_VALUE = _of_layer("formed_value", "value of the stream", f"h {_PLACE}")
_ATTENTION = _of_layer("written_attention", "what attention adds", f"attention update {_PLACE}", "this project")
_MLP = _of_layer("written_mlp", "what the MLP adds", f"MLP update {_PLACE}", "this project")
_NLL = Quantity(
    "nll", ("setting",), "nats", "next-token loss", "-log p(next token), mean over the text", f"{_SUN}, table 3",
    "uniform guessing: log(vocab)",
)  # fmt: skip
_SITE_LAYER = Quantity("site_layer", (), "1", "first layer with a massive activation", "Sun's rule", _SUN, "any")
_SITE_DIM = Quantity("site_dim", (), "1", "its dimension", "top_dim of that layer", _SUN, "any")


class Written(Handler):
    """What the updates add and what the stream holds at one token: part -> [L D]."""

    sites = frozenset(_PARTS.values())

    def __init__(self, token: int) -> None:
        self.token = token
        self.found: dict[str, list[Float[Tensor, " D"]]] = {name: [] for name in _PARTS}

    def watch(self, event: Event) -> None:
        """Keep the row of the token."""
        part = next(name for name, site in _PARTS.items() if site == event.site)
        self.found[part].append(event.value[0, self.token].detach().double())


@torch.no_grad()
def read(model: nn.Module, tokens: Int[Tensor, "1 T"]) -> xr.Dataset:
    """What Massive sees of a text, and what every block adds at the place of the largest value."""
    with Scope(model, [Massive(ranks=1)]) as scope:
        model(tokens)
    massive = scope.record(created=False)
    top = int(massive.magnitude_max.values.argmax())
    token, dim = (int(massive[name].isel(layer=top, rank=0)) for name in ("top_token", "top_dim"))
    written = Written(token)
    with attached(model, written):
        model(tokens)
    layer, site_dim = massive_site(massive)
    at = {part: torch.stack(rows)[:, dim].numpy() for part, rows in written.found.items()}
    values = {
        _RATIO: massive.massive_ratio.values,
        _MAX: massive.magnitude_max.values,
        _TOKEN: massive.top_token.isel(rank=0).values,
        _DIM: massive.top_dim.isel(rank=0).values,
        _VALUE: at["stream"],
        _ATTENTION: at["attention"],
        _MLP: at["MLP"],
        _SITE_LAYER: layer,
        _SITE_DIM: site_dim,
    }
    record = records.measured({quantity: (value, {}) for quantity, value in values.items()}, {})
    value = float(torch.stack(written.found["stream"])[layer, site_dim])
    return record.assign_attrs(site_value=value)


def losses(
    model: nn.Module, tokens: Int[Tensor, "1 T"], layer: int, dim: int, mean: float, controls: int = CONTROLS
) -> dict[str, float]:
    """SETTINGS -> loss of a text when the number at the first token, ``dim``, after ``layer`` is changed."""
    zero = ZeroDims([dim], after_layers=[layer], positions=[0])
    return {
        SETTINGS[0]: loss(model, tokens),
        SETTINGS[1]: loss(model, tokens, zero),
        SETTINGS[2]: float(np.mean([loss(model, tokens, zero.control(seed)) for seed in range(controls)])),
        SETTINGS[3]: loss(model, tokens, ZeroDims([dim], after_layers=[layer], positions=[OTHER_POSITION])),
        SETTINGS[4]: loss(model, tokens, SetDims([dim], after_layers=[layer], positions=[0], value=mean)),
    }


def measure_texts(pretrained: Pretrained, names: Sequence[str]) -> xr.Dataset:
    """`read` and `losses` of two texts of TEXTS or more, along ``text``; the mean is over the other texts."""
    tokens = [pretrained.tokenizer.prepare(TEXTS[name].text) for name in names]
    reads = [read(pretrained.model, text) for text in tokens]
    values = [record.attrs.pop("site_value") for record in reads]
    for place, (record, text) in enumerate(zip(reads, tokens, strict=True)):
        mean = float(np.mean(values[:place] + values[place + 1 :]))
        found = losses(pretrained.model, text, int(record.site_layer), int(record.site_dim), mean)
        record["nll"] = _NLL.variable(
            list(found.values()), {"setting": list(found)}, baseline_value=float(np.log(pretrained.model.config.vocab))
        )
    return records.concat(reads, dim="text", labels=list(names))

"""Views: a labelled dataset becomes a figure. A view selects and reshapes; what it draws, its frame gives as a table.

    views.sink_heatmap(record)          # the figure
    views.sink_heatmap_frame(record)    # exactly the numbers it drew, as a pandas.DataFrame
    views.alt_text(figure)              # the finding in words

Nothing that draws is imported before a view is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class View:
    """A row of VIEWS: the function, the module of this package that holds it, the variables it cannot do without, and
    what it shows. An empty ``variables`` means the caller names the variable."""

    name: str
    module: str
    variables: tuple[str, ...]
    shows: str

    @property
    def frame(self) -> str:
        """Name of the twin that returns the numbers."""
        return f"{self.name}_frame"


_TABLE = (
    View("sink_heatmap", "sinks", ("first_attention",), "attention to the first token, layer by head"),
    View("key_mass_bars", "keys", ("key_mass",), "attention every token receives"),
    View("entropy_heatmap", "entropy", ("entropy_normalised",), "row entropy as a share of its maximum, layer by head"),
    View("entropy_profile", "entropy", ("entropy_normalised",), "row entropy by layer, with the spread over heads"),
    View("massive_3d", "massive_spikes", ("magnitude",), "|h| of one layer over tokens and dimensions"),
    View(
        "massive_table",
        "massive",
        ("top_value", "top_token", "top_dim", "magnitude_median"),
        "the largest hidden activations, ranked",
    ),
    View("massive_profile", "massive", ("magnitude_max", "magnitude_median"), "largest and median |h| by layer"),
    View("value_drain_bars", "values", ("value_drain",), "norm of the first value against the others"),
    View("gate_histogram", "gates", ("gate_histogram",), "distribution of gate scores, a row a gate head"),
    View("expert_load_heatmap", "experts", ("expert_load",), "load of every expert, layer by expert, dead ones marked"),
    View("coactivation_heatmap", "experts", ("coactivation",), "which experts the tokens of a layer visit together"),
    View(
        "token_expert_map", "experts", ("token_expert", "token_weight"), "which experts every token of a layer visits"
    ),
    View("expert_load_history", "routing", ("expert_load",), "load of every expert of a layer over training"),
    View("group_expert_map", "routing", ("group_expert",), "which experts serve which group of tokens"),
    View(
        "residual_profile",
        "residual",
        ("resid_norm", "attention_update_norm", "mlp_update_norm"),
        "norms of the residual stream and of what blocks add, by layer",
    ),
    View(
        "lens_profile",
        "lens",
        ("lens_loss", "lens_divergence", "lens_entropy", "lens_agreement"),
        "what the stream of every layer would predict: loss, divergence, entropy, agreement",
    ),
    View(
        "sparsity_profile",
        "activations",
        ("activation_small", "activation_zeros", "neurons_silent", "activation_hoyer"),
        "activation sparsity of the MLPs, by layer",
    ),
    View("outlier_profile", "outliers", ("int8_error",), "error of int8 activations by layer, for what shares a scale"),
    View(
        "weight_profile",
        "weights",
        ("weight_zeros", "weight_hoyer", "weight_count", "weight_zeros_global"),
        "zeros and Hoyer index of every parameter, by layer, and which hold an N:M pattern",
    ),
    View("mask_map", "masks", ("masked_weight",), "a weight matrix and what its mask leaves of it"),
    View(
        "block_map",
        "blocks",
        ("block_attention", "block_read"),
        "which blocks of an attention are read, and what lies in the others",
    ),
    View("loss_bars", "losses", ("nll",), "loss by intervention, with its random controls"),
    View("variant_strip", "variants", (), "one metric over variants, every seed a point"),
    View("published_scatter", "published", (), "published numbers across, measured ones upwards, a point a variant"),
    View("difference_map", "differences", (), "one variable of two records and their difference, on linked axes"),
    View("rate_lines", "rates", (), "an error over the sample size on logarithmic axes, with its exponent"),
    View(
        "mixture_fit",
        "mixtures",
        ("input", "expert_mean", "expert_weight", "expert_scale", "true_mean", "true_weight", "true_scale"),
        "data, fitted and true experts, and the weights of the gate",
    ),
    View(
        "voronoi_plane",
        "mixtures",
        ("expert_slope", "expert_intercept", "expert_mass", "expert_cell", "true_slope", "true_intercept"),
        "fitted experts in the Voronoi cells of the true ones",
    ),
    View("sweep_lines", "sweeps", (), "one variable along what was turned: a temperature, a size, a number of pairs"),
    View("retrieval_gallery", "retrieval", ("state_image",), "a state on its way to a stored pattern, as images"),
    View("state_weights", "retrieval", ("state_weight",), "with which weights a state reads a memory, ranked"),
    View("mode_bars", "modes", ("operating_mode",), "operating modes of the heads of every layer"),
    View("influence_map", "influence", ("influence",), "how much of every earlier token a position reads"),
    View("cell_graph", "cells", ("operation_weight", "operation_chosen"), "the cell of a searched network as a graph"),
    View("law_fit", "emergence", ("series_value", "law_value"), "laws through a series over training, and residuals"),
    View("written_profile", "emergence", ("formed_value", "written_attention", "written_mlp"), "who writes one value"),
    View("parallel_points", "parallel", (), "points of a grid as lines over its axes, coloured by a metric"),
    View("curves", "training", (), "one variable over training steps, a line a variant"),
    View("token_strip", "tokens", (), "tokens coloured by a number each"),
    View("access_map", "accesses", ("reads", "writes"), "which program of a kernel reads and writes which element"),
)
#: View name -> View.
VIEWS: dict[str, View] = {view.name: view for view in _TABLE}
_MODULE_OF = {name: view.module for view in _TABLE for name in (view.name, view.frame)} | {"alt_text": "style"}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gatescope.views' has no attribute {name!r}; views are {', '.join(VIEWS)}")
    return getattr(import_module(f"gatescope.views.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])

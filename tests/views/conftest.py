"""A synthetic record with every variable a view can draw, and the numbers planted in it."""

import numpy as np
import pytest
import xarray as xr

LAYERS, HEADS, KV, TOKENS, DIMS, EXPERTS = 4, 3, 1, 12, 32, 6
PIECES = ["<s>", "<script>alert(1)</script>", " the", "\n", *(f" w{i}" for i in range(TOKENS - 4))]
PARAMETERS = ["embed.weight", *(f"blocks.{layer}.mlp.{part}" for layer in range(LAYERS) for part in ("up", "down"))]
BASELINE = "uniform causal attention: H_T / T"


def _described(dims, values, long_name, units="1", **attrs):
    return (
        dims,
        values,
        {"long_name": long_name, "units": units, "baseline": BASELINE, "baseline_value": 0.2586, **attrs},
    )


@pytest.fixture
def record() -> xr.Dataset:
    rng = np.random.default_rng(0)
    sinks = rng.uniform(0.1, 0.5, (LAYERS, HEADS))
    sinks[2, 1] = 0.97
    magnitude = np.abs(rng.normal(size=(LAYERS, TOKENS, DIMS)))
    magnitude[3, 0, 7] = 900.0
    order = np.argsort(-magnitude.reshape(LAYERS, -1), axis=1)[:, :4]
    top = np.take_along_axis(magnitude.reshape(LAYERS, -1), order, axis=1)
    histogram = rng.dirichlet(np.ones(10), (LAYERS, HEADS))
    centres = (np.arange(10) + 0.5) / 10
    drain = rng.uniform(0.1, 0.4, (LAYERS, KV))
    load = rng.dirichlet(np.ones(EXPERTS), LAYERS)
    load[1] = [0.0, 0.7, *[0.3 / (EXPERTS - 2)] * (EXPERTS - 2)]
    pairs = rng.uniform(0.1, 0.4, (LAYERS, EXPERTS, EXPERTS))
    pairs[:, range(EXPERTS), range(EXPERTS)] = 1.0
    pairs[2, 3, 4], pairs[1, 0] = 0.9, np.nan
    visits = rng.permuted(np.tile(np.arange(EXPERTS), (LAYERS, TOKENS, 1)), axis=-1)[..., :2]
    weights = rng.dirichlet(np.ones(2), (LAYERS, TOKENS))
    weights[0, 5, 1] = 0.0
    rounding = rng.uniform(1e-5, 1e-3, (LAYERS, 2, 3))
    rounding[2, 1, 0] = 0.25
    zeros = np.zeros(len(PARAMETERS))
    zeros[3] = 0.5
    held = np.zeros((len(PARAMETERS), 2))
    held[3, 1], held[0] = 1.0, np.nan
    by_layer = {
        name: _described("layer", rng.uniform(low, high, LAYERS), name.replace("_", " "), units)
        for name, low, high, units in (
            ("resid_norm", 5, 50, "1"),
            ("attention_update_norm", 1, 4, "1"),
            ("mlp_update_norm", 1, 8, "1"),
            ("lens_loss", 2, 6, "nats"),
            ("lens_divergence", 0, 4, "nats"),
            ("lens_entropy", 1, 5, "nats"),
            ("lens_agreement", 0.1, 0.9, "1"),
            ("activation_small", 0.2, 0.5, "1"),
            ("activation_zeros", 0.1, 0.2, "1"),
            ("neurons_silent", 0.0, 0.1, "1"),
            ("activation_hoyer", 0.3, 0.6, "1"),
        )
    }
    return xr.Dataset(
        {
            "first_attention": _described(("layer", "head"), sinks, "attention to the first token", first_query=1),
            "key_mass": _described(
                ("layer", "head", "token"), rng.dirichlet(np.ones(TOKENS), (LAYERS, HEADS)), "attention received"
            ),
            "entropy_normalised": _described(
                ("layer", "head"), rng.uniform(0.2, 0.9, (LAYERS, HEADS)), "normalised row entropy"
            ),
            "magnitude": _described(("layer", "token", "dim"), magnitude, "|h|"),
            "magnitude_max": _described("layer", magnitude.max((1, 2)), "largest |h|"),
            "magnitude_median": _described("layer", np.median(magnitude, (1, 2)), "median |h|"),
            "top_value": _described(("layer", "rank"), top, "value"),
            "top_token": _described(("layer", "rank"), order // DIMS, "token"),
            "top_dim": _described(("layer", "rank"), order % DIMS, "dim"),
            "value_drain": _described(("layer", "kv_head"), drain, "norm of the first value over the others"),
            "gate_histogram": _described(("layer", "gate_head", "bin"), histogram, "share of gate scores"),
            "gate_mean": _described(("layer", "gate_head"), histogram @ centres, "mean gate score"),
            "expert_load": _described(("layer", "expert"), load, "share of assignments", window_tokens=2048),
            "coactivation": _described(("layer", "expert", "other_expert"), pairs, "share of the expert's tokens"),
            "token_expert": _described(("layer", "token", "choice"), visits, "expert"),
            "token_weight": _described(("layer", "token", "choice"), weights, "weight of the expert"),
            "int8_error": _described(("layer", "site", "scaling"), rounding, "relative error of int8 activations"),
            "weight_zeros": _described("parameter", zeros, "share of weights that are zero"),
            "weight_hoyer": _described(
                "parameter", rng.uniform(0.1, 0.4, len(PARAMETERS)), "Hoyer sparsity of weights"
            ),
            "weight_count": _described("parameter", np.full(len(PARAMETERS), 64), "weights", "weights"),
            "weight_nm": _described(("parameter", "pattern"), held, "weights hold the N:M pattern"),
            "weight_zeros_layer": _described(
                "layer", [0.0, 0.25, 0.0, 0.0], "share of weights of the layer that are zero"
            ),
            "weight_zeros_global": _described((), 1 / 18, "share of all weights that are zero"),
            "influence": _described(("token", "key"), rng.normal(size=(TOKENS, TOKENS)), "influence"),
            **by_layer,
        },
        coords={
            "layer": range(LAYERS),
            "head": range(HEADS),
            "bin": centres,
            "piece": ("token", PIECES),
            "site": ["resid", "mlp"],
            "scaling": ["tensor", "token", "channel"],
            "parameter": PARAMETERS,
            "parameter_layer": ("parameter", [-1, *np.repeat(range(LAYERS), 2)]),
            "pattern": ["1:4", "2:4"],
        },
        attrs={"T": TOKENS, "n_samples": 1, "bos": "in the text at position 0"},
    )


@pytest.fixture
def history() -> xr.Dataset:
    """Loads of two layers over three steps; expert 2 of layer 0 goes idle. Two groups that experts 0 and 1 serve."""
    load = np.full((3, 2, 4), 0.25)
    load[2, 0] = [0.25, 0.75, 0.0, 0.0]
    load[0, 1] = np.nan
    served = np.array([[[1.0, 0.0, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]], [[0.25] * 4, [np.nan] * 4]])
    return xr.Dataset(
        {
            "expert_load": _described(("step", "layer", "expert"), load, "share of assignments"),
            "group_expert": _described(("layer", "group", "expert"), served, "share of the group's visits"),
            "group_information": _described("layer", [0.56, 0.0], "information of the expert about the group", "nats"),
        },
        coords={"step": [0, 50, 100], "layer": [0, 1], "group": ["a", "b"]},
        attrs={"T": 48},
    )


@pytest.fixture
def losses() -> xr.Dataset:
    settings = ["full attention", "window 64", "window 64 + 1 sink", "random control 0"]
    return xr.Dataset(
        {"nll": _described(("setting", "text"), [[2.3, 2.4], [3.5, 3.7], [2.3, 2.5], [3.4, 3.6]], "loss", "nats")},
        coords={"setting": settings, "kind": ("setting", ["without", "with", "with", "control"]), "text": ["a", "b"]},
        attrs={"T": 171},
    )


@pytest.fixture
def runs() -> xr.Dataset:
    rng = np.random.default_rng(1)
    steps = np.arange(0, 100, 10)
    values = np.array([[0.70, 0.80, 0.72], [0.22, 0.28, 0.25], [0.76, 0.74, 0.78]])
    loss = 1.5 + np.exp(-steps / 30)[None, None] + rng.normal(0, 0.02, (3, 3, len(steps)))
    return xr.Dataset(
        {
            "first_attention": _described(("variant", "seed"), values, "first-token attention"),
            "loss": _described(("variant", "seed", "step"), loss, "loss", "nats"),
        },
        coords={"variant": ["softmax", "g1_element", "off_by_one"], "seed": [0, 1, 2], "step": steps},
        attrs={"T": 48, "bos": "position 0"},
    )


@pytest.fixture
def strip() -> xr.Dataset:
    values = np.linspace(-1.0, 3.0, TOKENS)
    return xr.Dataset(
        {"nll_change": _described(("token",), values, "change of loss", "nats")}, coords={"piece": ("token", PIECES)}
    )


@pytest.fixture
def two(record) -> xr.Dataset:
    """The record and one whose head 1 of layer 2 gives 0.9 less to the first token, along ``record``."""
    other = record[["first_attention", "key_mass", "resid_norm", "weight_zeros_global"]].copy(deep=True)
    other["first_attention"][2, 1] = 0.07
    return xr.concat(
        [record[list(other)], other], xr.IndexVariable("record", ["A", "B"]), data_vars="all", combine_attrs="override"
    )


@pytest.fixture
def falling() -> xr.Dataset:
    """An error that falls as n^-1/2 for one variant and as n^-1/4 for another, seeds a little apart."""
    sizes, factor = np.array([250, 800, 2500, 8000]), np.array([1.0, 1.1, 0.9])
    values = np.stack([3 * sizes**power * factor[:, None] for power in (-0.5, -0.25)])
    return xr.Dataset(
        {"error": _described(("variant", "seed", "sample_size"), values, "error of the parameters")},
        coords={"variant": ["alone", "shared"], "seed": [0, 1, 2], "sample_size": sizes},
        attrs={"T": 1},
    )


@pytest.fixture
def mixture() -> xr.Dataset:
    """Three fitted experts for two true ones: two of them in the first cell."""
    grid, points = np.linspace(-2, 2, 9), np.linspace(-1.9, 1.9, 9)
    slope, intercept = {"expert": [1.1, 0.9, -0.6], "true": [1.0, -0.5]}, {"expert": [-1, -1.2, 1], "true": [-1.1, 1]}
    variables = {
        "input": _described("point", grid, "input"),
        "sample_x": _described("sample", points, "x"),
        "sample_y": _described("sample", points - 1, "y"),
        "expert_cell": _described("expert", [0, 0, 1], "cell"),
    }
    for prefix, dim in (("expert", "expert"), ("true", "true_expert")):
        count = len(slope[prefix])
        lines = np.array(slope[prefix])[:, None] * grid + np.array(intercept[prefix])[:, None]
        variables |= {
            f"{prefix}_mean": _described((dim, "point"), lines, "mean"),
            f"{prefix}_weight": _described((dim, "point"), np.full((count, 9), 1 / count), "weight"),
            f"{prefix}_scale": _described(dim, np.full(count, 0.4), "scale"),
            f"{prefix}_mass": _described(dim, np.ones(count), "mass"),
            f"{prefix}_slope": _described(dim, slope[prefix], "slope"),
            f"{prefix}_intercept": _described(dim, intercept[prefix], "intercept"),
        }
    return xr.Dataset(variables, attrs={"T": 1})


@pytest.fixture
def memory() -> xr.Dataset:
    """A state on its way in a memory of six patterns, what beta does to it, and a layer of four modes of heads."""
    rng = np.random.default_rng(2)
    betas, weights = 2.0 ** np.arange(5), [0.05, 0.5, 0.0, 0.3, 0.15, 0.0]
    return xr.Dataset(
        {
            "state_image": _described(("picture", "pixel"), rng.uniform(0, 1, (3, 9)), "grey value"),
            "state_weight": _described("stored", weights, "weight"),
            "state_share": _described(("variant", "seed", "beta"), rng.uniform(0, 1, (2, 3, 5)), "share of patterns"),
            "operating_mode": _described(("layer", "head"), [[1, 1, 2, 4], [3, 4, 4, 4]], "class of the median row"),
        },
        coords={"picture": ["query", "update 1", "meant"], "beta": betas, "variant": ["softmax", "entmax"]},
        attrs={"T": 1, "finding": "retrieved after 1 update"},
    )


@pytest.fixture
def masked() -> xr.Dataset:
    """Three outputs that read one of each two inputs."""
    weight = np.array([[0.5, np.nan, -1.0, np.nan]] * 3)
    return xr.Dataset({"masked_weight": _described(("hidden", "dim"), weight, "weight", group=2)}, attrs={"T": 1})


@pytest.fixture
def cell() -> xr.Dataset:
    """Two nodes, three edges, three candidates; no operation on the way from the input to node 2."""
    weights, chosen = np.array([[0.2, 0.7, 0.1], [0.8, 0.1, 0.1], [0.1, 0.3, 0.6]]), np.zeros((3, 3))
    chosen[0, 1] = chosen[2, 2] = 1
    return xr.Dataset(
        {
            "operation_weight": _described(("edge", "operation"), weights, "weight of an operation"),
            "operation_chosen": _described(("edge", "operation"), chosen, "operation of the architecture"),
        },
        coords={"edge": ["0→1", "0→2", "1→2"], "operation": ["zero", "skip", "conv 3x3"]},
        attrs={"T": 1},
    )


@pytest.fixture
def blocks() -> xr.Dataset:
    """Four blocks, of which every row reads the first and its own."""
    worth = np.tril(np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.6, 0.2, 0], [0.4, 0.1, 0.3, 0.2]]))
    read = np.maximum(np.eye(4), np.arange(4) == 0)
    return xr.Dataset(
        {
            "block_attention": _described(("query_block", "key_block"), worth, "largest weight of a block"),
            "block_read": _described(("query_block", "key_block"), read, "whether a block is read"),
        },
        attrs={"T": 1},
    )


@pytest.fixture
def emerging() -> xr.Dataset:
    """A series that a first law misses by 1 everywhere and a second one meets; a value that one MLP writes."""
    steps = np.array([0, 1, 2, 4, 8])
    values = np.log1p(steps)
    return xr.Dataset(
        {
            "series_value": _described("step", values, "ratio"),
            "law_value": _described(("law", "step"), np.stack([values + 1, values]), "law"),
            "formed_value": _described("layer", [1.0, 500.0, 490.0], "value"),
            "written_attention": _described("layer", [1.0, -1.0, 2.0], "what attention adds"),
            "written_mlp": _described("layer", [0.0, 500.0, -12.0], "what the MLP adds"),
        },
        coords={"step": steps, "law": ["logarithm", "modulated logarithm"], "layer": range(3)},
        attrs={"T": 1},
    )


@pytest.fixture
def grid_points() -> xr.Dataset:
    """Six points of a grid; the gate after attention has least of it, one point has none."""
    values = np.array([0.7, 0.1, 0.4, 0.6, 0.2, np.nan])
    return xr.Dataset(
        {"first_attention": _described("point", values, "first-token attention")},
        coords={
            "point": list("abcdef"),
            "position": ("point", ["none", "sdpa", "value"] * 2),
            "lr": ("point", [2e-3] * 3 + [1e-2] * 3),
            "steps": ("point", [1000] * 6),
        },
        attrs={"T": 1},
    )


@pytest.fixture
def accesses() -> xr.Dataset:
    """Two programs copy x [1 x 4] to y, two elements each; the second reads past the end and writes one too many."""
    reads, writes = np.zeros((2, 9), dtype=int), np.zeros((2, 9), dtype=int)
    reads[0, :2] = reads[1, 2:4] = reads[1, 8] = 1
    writes[0, 4:6] = writes[1, 5:8] = 1
    columns = [0, 1, 2, 3, 0, 1, 2, 3, 4]
    return xr.Dataset(
        {
            "reads": _described(("program", "cell"), reads, "loads of an element"),
            "writes": _described(("program", "cell"), writes, "stores to an element"),
        },
        coords={
            "program": ["0", "1"],
            "tensor": ("cell", [*"xxxxyyyyx"]),
            "row": ("cell", [0] * 9),
            "column": ("cell", columns),
            "inside": ("cell", [True] * 8 + [False]),
            "bytes": ("cell", [4] * 9),
        },
        attrs={"T": 1},
    )


@pytest.fixture
def drawn(
    record, history, losses, runs, strip, two, falling, mixture, memory, masked, cell, blocks, emerging, grid_points,
    accesses,
):  # fmt: skip
    """View name -> the dataset and the further arguments it is drawn from here."""
    own = {
        "loss_bars": (losses, ()),
        "variant_strip": (runs, ("first_attention",)),
        "published_scatter": (runs, ("first_attention", {"softmax": 0.467, "g1_element": 0.048})),
        "curves": (runs, ("loss",)),
        **dict.fromkeys(("retrieval_gallery", "state_weights", "mode_bars"), (memory, ())),
        "parallel_points": (grid_points, ("first_attention",)),
        "sweep_lines": (memory, ("state_share", "x")),
        "mask_map": (masked, ()),
        "block_map": (blocks, ()),
        "cell_graph": (cell, ()),
        **dict.fromkeys(("law_fit", "written_profile"), (emerging, ())),
        "token_strip": (strip, ("nll_change",)),
        "rate_lines": (falling, ("error",)),
        "mixture_fit": (mixture, ()),
        "voronoi_plane": (mixture, ()),
        "expert_load_history": (history, ()),
        "group_expert_map": (history, ()),
        "difference_map": (two, ("first_attention",)),
        "access_map": (accesses, ()),
    }
    from gatescope.views import VIEWS

    return {name: own.get(name, (record, ())) for name in VIEWS}

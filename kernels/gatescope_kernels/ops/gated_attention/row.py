"""The row of gated_attention: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.gated_attention.api import (
    IMPLEMENTATIONS,
    STATISTICS,
    Visibility,
    gated_attention_with_stats,
)
from gatescope_kernels.ops.gated_attention.bench import contests

_SIZES = {"B": 1, "H": 2, "G": 1, "T": 63, "S": 63, "K": 16, "V": 16}


def _attention_case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    if "T" in sizes:
        sizes.setdefault("S", sizes["T"])
    return Case(name, _SIZES | sizes, options or {}, error_scale)


def _attention_inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    B, H, G, T, S, K, V = (case.sizes[letter] for letter in "BHGTSKV")
    options = dict(case.options)
    layout = options.pop("layout", "contiguous")

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        if layout == "positions_first" and len(shape) == 4:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "strided_channels" and len(shape) == 4:
            return x.mT.contiguous().mT
        return x

    inputs: dict[str, Any] = {"q": normal(B, H, T, K) * options.pop("logit_scale", 1.0)}
    inputs |= {"k": normal(B, G, S, K), "v": normal(B, G, S, V)}
    gate = options.pop("gate", None)
    if gate is not None:
        scores = torch.sigmoid(normal(B, H, T, V if gate == "element" else 1).double()).to(dtype)
        inputs["gate"] = torch.full_like(scores, options.pop("gate_value")) if "gate_value" in options else scores
    if options.get("sink") == "learned":
        options["sink"] = normal(H)
    hidden_share = options.pop("hidden_share", None)
    if hidden_share is not None:
        options["key_mask"] = torch.rand(B, S, generator=generator) >= hidden_share
        options["key_mask"][0] = False  # a sequence that is all padding: its rows see no key
    lengths = options.pop("lengths", None)
    if lengths is not None:
        options["documents"] = torch.stack([_ids(row) for row in lengths]).expand(B, -1)
    unread = options.pop("unread", None)  # how many tokens at each sequence's end are padding
    if unread is not None:
        options["key_mask"] = torch.arange(S) < S - torch.tensor(unread)[:, None]
    return inputs | options


def _ids(lengths: tuple[int, ...]) -> Tensor:
    """[T] ids of documents of these lengths; what the numbers are does not matter, only that they grow."""
    return torch.repeat_interleave(torch.arange(len(lengths)) * 3 - 1, torch.tensor(lengths))


def _attention_call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    out, stats = gated_attention_with_stats(**inputs, impl=impl)
    named = {"out": out} | {name: getattr(stats, name) for name in ("lse", *STATISTICS, "sink_mass")}
    return {name: value for name, value in named.items() if value is not None}


def _production(case: Case, dtype: torch.dtype) -> Production:
    """Causal work: for each visible score two products forward, one more for key mass, and five backward."""
    B, H, G, T, S, K, V = (case.sizes[letter] for letter in "BHGTSKV")
    stats = case.options.get("stats", STATISTICS)
    scores, size = B * H * T * (T + 1) // 2, dtype.itemsize
    tensors = size * B * (H * T * (K + 2 * V) + G * S * (K + V))  # q, gate, out; k, v
    rows = 4 * B * H * (T * (1 + len(stats)) if stats else T)
    return Production(
        case,
        dtype,
        Work(2 * (K + V + K * ("key_mass" in stats)) * scores, tensors + rows),
        Work(2 * (3 * K + 2 * V) * scores, 2 * tensors + size * B * H * T * V + 2 * rows),
    )


_FULL = Visibility(causal=False)
_WINDOW = Visibility(window=9)
_STREAMING = Visibility(window=9, sink_tokens=4)
_TWO_SIDED = Visibility(causal=False, window=5, sink_tokens=2)
_GATE = {"gate": "element"}
_GATED = _GATE | {"sink": "learned"}
_PACKED = {"lengths": ((50, 17, 63),)}
_TWO_PACKINGS = {"lengths": ((1, 69, 60), (130,))}
_LARGE = {"logit_scale": 30.0, "sink": "learned"}

ROW = Op(
    name="gated_attention",
    inputs=_attention_inputs,
    call=_attention_call,
    cases=(
        _attention_case("causal", B=2, H=4, G=2),
        _attention_case("causal_out_only", {"stats": ()}, H=4, G=2),
        _attention_case("causal_out_only_sink", {"stats": (), "sink": "learned"}),
        _attention_case("causal_mass_only", {"stats": ("mass",), "sink": "learned", "keys": (0, 5, 62)}),
        _attention_case("entropy_only", {"stats": ("entropy",)}),
        _attention_case("max_logit_only", {"stats": ("max_logit",)}),
        _attention_case("key_mass_only", {"stats": ("key_mass",), "sink": 0.0}, B=2),
        _attention_case("full", {"visibility": _FULL, "keys": (0, 5, 62)}, B=2, H=4, G=2),
        _attention_case("full_out_only", {"visibility": _FULL, "stats": ()}, T=100, S=63),
        _attention_case("window", {"visibility": _WINDOW} | _GATED, T=130, H=4, G=2),
        _attention_case("window_out_only", {"visibility": _WINDOW, "stats": ()}, T=100),
        _attention_case("window_and_sink_tokens", {"visibility": _STREAMING, "keys": (0, 3, 70)}, T=130, H=4, G=2),
        _attention_case("window_of_one", {"visibility": Visibility(window=1)}),
        _attention_case("two_sided_window", {"visibility": _TWO_SIDED} | _GATED, T=100),
        _attention_case("one_query", {"stats": (), "sink": "learned"}, T=1, S=63),
        _attention_case("one_token", _GATED, T=1),
        _attention_case("cached_prefix", {"sink": 0.0}, T=63, S=130),
        _attention_case("cached_prefix_window", {"visibility": _STREAMING}, T=7, S=130),
        _attention_case("more_queries_than_keys", {"keys": (0, 62)}, T=100, S=63),
        _attention_case("more_queries_than_keys_sink", {"visibility": _STREAMING, "sink": "learned"}, T=100, S=63),
        _attention_case("padding", {"hidden_share": 0.3}, B=2),
        _attention_case("padding_sink", {"hidden_share": 0.3, "sink": "learned", "gate": "head"}, B=2),
        _attention_case("padding_window", {"hidden_share": 0.7, "visibility": _STREAMING}, B=2, T=130),
        _attention_case("padding_full", {"hidden_share": 0.5, "visibility": _FULL, "stats": ()}, B=2),
        _attention_case("padding_at_the_end_out_only", {"unread": (0, 41), "stats": ()} | _GATED, T=130, B=2),
        _attention_case("packed_causal", _PACKED, T=130),
        _attention_case("packed_out_only", _PACKED | {"stats": ()}, T=130),
        _attention_case("packed_out_only_sink", _TWO_PACKINGS | {"stats": (), "sink": "learned"}, T=130, B=2),
        _attention_case("packed_window_and_sink_tokens", _TWO_PACKINGS | {"visibility": _STREAMING}, T=130, B=2),
        _attention_case("packed_two_sided_window", _PACKED | {"visibility": _TWO_SIDED}, T=130),
        _attention_case("packed_encoder", _TWO_PACKINGS | {"visibility": _FULL}, T=130, B=2),
        _attention_case("packed_sink_gate", _TWO_PACKINGS | _GATED, T=130, B=2),
        _attention_case("packed_one_token", {"lengths": ((1,) * 63, (20,) + (1,) * 43)}, B=2),
        _attention_case("packed_padding", {"lengths": ((40, 23), (63,)), "unread": (23, 9), "sink": 0.0}, B=2),
        _attention_case("packed_padding_out_only", {"lengths": ((40, 23), (63,)), "unread": (23, 9), "stats": ()}, B=2),
        _attention_case("packed_keys_beyond", {"lengths": ((5, 40, 18),), "stats": ("mass",), "keys": (0, 7, 39)}),
        _attention_case("one_head", {"gate": "element"}, H=1, K=64, V=64, T=48),
        _attention_case("every_head_its_own_keys", {"gate": "head"}, H=3, G=3, K=60, V=60, T=100),
        _attention_case("one_key_head", {"sink": "learned"}, K=64, V=64, T=130),
        _attention_case("width_256", {"gate": "element"}, H=1, K=256, V=250, T=70),
        _attention_case("width_257", {"gate": "element"}, H=1, K=257, V=16, T=5),
        _attention_case("wide_values", {"gate": "element"}, V=24),
        _attention_case("narrow_values", {"stats": (), "sink": 0.0}, K=60, V=7),
        _attention_case("gate_added", {"gate": "element", "combine": "add"}, B=2),
        _attention_case("head_gate_added", {"gate": "head", "combine": "add", "hidden_share": 0.3}, B=2),
        _attention_case("gate_shut", {"gate": "element", "gate_value": 0.0}),
        _attention_case("gate_huge", {"gate": "head", "gate_value": 1e4}),
        _attention_case("scale_given", {"scale": 0.7}),
        _attention_case("soft_cap", {"softcap": 1.5, "sink": "learned", "keys": (0, 5, 62)}),
        _attention_case("soft_cap_window", {"softcap": 1.5, "visibility": _STREAMING, "hidden_share": 0.3}, T=130),
        _attention_case("soft_cap_out_only", {"softcap": 30.0, "stats": ()}),
        _attention_case("soft_cap_documents", {"softcap": 1.5} | _PACKED, T=130),
        _attention_case("scale_zero", {"scale": 0.0, "stats": ("entropy", "mass", "key_mass")}),
        _attention_case("large_logits", _LARGE | _GATED, error_scale=8.0),
        _attention_case("large_logits_out_only", _LARGE | {"stats": ()}, error_scale=8.0),
        _attention_case("sink_takes_all", {"sink": 60.0}),
        _attention_case("positions_first", {"layout": "positions_first"} | _GATED, B=2, H=4, G=2),
        _attention_case("positions_first_out_only", {"layout": "positions_first", "stats": ()}),
        _attention_case("strided_channels", {"layout": "strided_channels"} | _GATED, B=2, H=4, G=2),
        _attention_case("strided_channels_out_only", {"layout": "strided_channels", "stats": ()}),
    ),
    differentiable=("q", "k", "v", "gate", "sink"),
    outputs=("out", "lse", *STATISTICS, "sink_mass"),
    low_precision=("out",),
    budget={torch.float64: 1e-12, torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    gradient_budget={torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    unfused=frozenset({"width_257", "soft_cap", "soft_cap_window", "soft_cap_out_only", "soft_cap_documents"}),
    productions=(
        _production(_attention_case("causal_statistics", _GATE, H=32, G=8, T=4096, K=128, V=128), torch.bfloat16),
        _production(
            _attention_case("causal_mass", _GATE | {"stats": ("mass",)}, H=32, G=8, T=4096, K=128, V=128),
            torch.bfloat16,
        ),
        _production(_attention_case("causal", _GATE | {"stats": ()}, H=32, G=8, T=4096, K=128, V=128), torch.bfloat16),
        _production(_attention_case("causal_statistics", _GATE, H=12, G=4, T=2048, K=64, V=64), torch.float32),
    ),
    budgets={
        "attend_rows": Budget((4, 5), {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 12}),
        "key_mass_pass": Budget(2, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 37}),
        "survey_keys": Budget(1, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 37}),
        "row_terms": Budget(0, {"sm_80": 31, "sm_90": 31, "sm_100": 31, "gfx942": 87}),
        "query_gradient": Budget((3, 4), {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 12}),
        "key_gradient": Budget((4, 5), {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 12}),
    },
)

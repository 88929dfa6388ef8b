"""What routed experts and their router refuse, and the words that tell the caller what to do next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gatescope_kernels import Refusal, route, routed_experts

ones = torch.ones
INTS = {"dtype": torch.int64}
VALID = {
    "x": ones(5, 4),
    "expert_index": ones(5, 2, **INTS),
    "expert_weight": ones(5, 2),
    "w_gate": ones(3, 4, 6),
    "w_up": ones(3, 4, 6),
    "w_down": ones(3, 6, 4),
}
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "x_rank": ({"x": ones(1, 5, 4)}, ("x [N D]", "(1, 5, 4)", "x.reshape(-1, D)")),
    "index_rank": ({"expert_index": ones(5, **INTS)}, ("expert_index [N k]", "(5,)")),
    "weights_of_one_expert": ({"w_gate": ones(4, 6)}, ("w_gate [E D F]", "stack the experts")),
    "not_a_tensor": ({"w_up": [1.0]}, ("w_up [E D F] as a tensor", "list", "torch.as_tensor")),
    "empty_batch": ({"x": ones(0, 4)}, ("no dimension of 0", "(0, 4)", "skip empty input")),
    "no_expert_named": ({"expert_index": ones(5, 0, **INTS)}, ("expert_index [N k] with no dimension of 0",)),
    "integers": ({"x": ones(5, 4, **INTS)}, ("floating dtype", "torch.int64", "x.float()")),
    "index_of_floats": ({"expert_index": ones(5, 2)}, ("integer dtype", "torch.float32", "indices of topk")),
    "index_of_bools": ({"expert_index": ones(5, 2, dtype=torch.bool)}, ("integer dtype", "torch.bool")),
    "two_dtypes": ({"w_down": ones(3, 6, 4).double()}, ("x's dtype torch.float32", "w_down.to(x.dtype)")),
    "weight_dtype": ({"expert_weight": ones(5, 2).half()}, ("expert_weight.to(x.dtype)",)),
    "two_devices": ({"w_up": ones(3, 4, 6, device="meta")}, ("x's device cpu", "meta", "w_up.to(x.device)")),
    "tokens_differ": ({"expert_index": ones(4, 2, **INTS)}, ("expert_index [N k] = (5, 2)", "(4, 2)")),
    "k_differs": ({"expert_weight": ones(5, 1)}, ("expert_weight [N k] = (5, 2)", "one weight a named expert")),
    "width_differs": ({"w_gate": ones(3, 5, 6)}, ("w_gate [E D F] = (3, 4, 6)", "(3, 5, 6)", ".mT")),
    "up_differs": ({"w_up": ones(3, 4, 5)}, ("w_up [E D F] = (3, 4, 6)",)),
    "down_not_transposed": ({"w_down": ones(3, 4, 6)}, ("w_down [E F D] = (3, 6, 4)", "transpose", ".mT")),
    "experts_differ": ({"w_down": ones(2, 6, 4)}, ("(3, 6, 4)", "(2, 6, 4)")),
    "index_too_large": ({"expert_index": torch.full((5, 2), 3)}, ("[0, E) = [0, 3)", "got 3", "weight 0")),
    "index_negative": ({"expert_index": torch.full((5, 2), -1)}, ("[0, 3)", "got -1", "weight 0")),
    "impl": ({"impl": "triton"}, ("'reference', 'blockwise', 'fused'", "got 'triton'", "impl='auto'")),
    "fused_in_double": (
        {name: array.double() for name, array in VALID.items() if name != "expert_index"} | {"impl": "fused"},
        ("for impl='fused': float16, bfloat16 or float32", "torch.float64", "use impl='blockwise'"),
    ),
}

LOGITS = {"logits": ones(5, 3), "k": 2}
NOT_ROUTED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "rank": ({"logits": ones(1, 5, 3)}, ("logits [N E]", "logits.reshape(-1, E)")),
    "not_a_tensor": ({"logits": [[1.0]]}, ("as a tensor", "list")),
    "empty": ({"logits": ones(0, 3)}, ("no dimension of 0",)),
    "integers": ({"logits": ones(5, 3, **INTS)}, ("floating dtype", "logits.float()")),
    "k_above_experts": ({"k": 4}, ("k in [1, E] = [1, 3]", "got 4", "more experts than there are")),
    "k_zero": ({"k": 0}, ("[1, 3]", "got 0")),
    "k_not_whole": ({"k": 1.5}, ("[1, 3]", "1.5")),
    "kind": ({"kind": "softmin"}, ("'softmax', 'sigmoid'", "'softmin'")),
    "renormalise": ({"renormalise": "yes"}, ("True or False", "'yes'")),
    "bias_number": ({"bias": 1.0}, ("bias [E] as a tensor", "float")),
    "bias_shape": ({"bias": ones(2)}, ("bias [E] = (3,)", "(2,)")),
    "bias_integers": ({"bias": ones(3, **INTS)}, ("floating dtype", "bias.float()")),
    "bias_device": ({"bias": ones(3, device="meta")}, ("logits' device cpu", "meta")),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_says_what_to_do(name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        routed_experts(**VALID | change)
    assert str(refused.value).startswith("routed_experts: wanted ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", NOT_ROUTED)
def test_router_refuses_and_says_what_to_do(name: str) -> None:
    change, words = NOT_ROUTED[name]
    with pytest.raises(Refusal) as refused:
        route(**LOGITS | change)
    assert str(refused.value).startswith("route: wanted ")
    for word in words:
        assert word in str(refused.value)

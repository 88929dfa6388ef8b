"""The final norm and head of other people's models, found and read as those models do."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import UntappableModelError
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM, readout_of
from torch import nn

SIZES = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
FAMILIES = {
    "llama": ("Llama", LLAMA),
    "gpt2": ("GPT2", {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}),
    "gpt_neox": ("GPTNeoX", {**SIZES, "intermediate_size": 24}),
    "gemma2": ("Gemma2", {**LLAMA, "final_logit_softcapping": 0.5}),
}
NORMS = {"GPT2": "transformer.ln_f", "GPTNeoX": "gpt_neox.final_layer_norm"}


@pytest.mark.parametrize(("family", "sizes"), FAMILIES.values(), ids=FAMILIES)
def test_reads_the_models_own_logits(family, sizes, require) -> None:
    require("transformers")
    import transformers

    name = f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**sizes)).eval()
    read = readout_of(model)
    norm = model.get_submodule(NORMS.get(family, "model.norm"))
    seen = []
    with norm.register_forward_pre_hook(lambda _, args: seen.append(args[0])), torch.no_grad():
        logits = model(torch.arange(10)[None], use_cache=False).logits
        torch.testing.assert_close(read(seen[0]), logits)
    assert len(seen) == 1, "the reading went through the hooks of the model"


def test_a_model_may_bring_its_own() -> None:
    model = TinyLM(LMConfig(19, 12, 1, AttentionSpec(2, 1, 6), MLPSpec("gelu", 16)))
    assert readout_of(model) == model.readout


def test_a_model_without_a_known_place_is_refused() -> None:
    with pytest.raises(UntappableModelError, match=r"readout_of: .*got Sequential with 0, 1; pass the callable"):
        readout_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))

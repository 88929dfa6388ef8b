"""A conversion adds no parameter and touches no weight; adapters start as nothing and merge into the maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gatescope.checkpoints import load_model, save_model
from gatescope.errors import Refusal
from gatescope.layers import LigerSpec, LinearAttentionSpec
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM
from gatescope.surgery import LoRASpec, adapters, merged, to_liger, with_lora
from gatescope.tasks import MQAR
from gatescope.train import Training, TrainSpec

SOFTMAX = AttentionSpec(4, 2, 4, convolution=2)
TASK = MQAR(pairs=2, length=8, vocab=20)


@pytest.fixture
def model() -> TinyLM:
    return TinyLM(LMConfig(20, 12, 2, SOFTMAX, MLPSpec("gelu", 16), init_std=0.3), init_seed=1).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return TASK.batch(0, 3)[0]


@pytest.mark.parametrize("decay", ["channel", "head", "fixed", "none"])
def test_the_same_parameters_and_no_others(model: TinyLM, decay: str) -> None:
    """Names, shapes and values; linear attention of the same shape with gates of its own has more."""
    converted = to_liger(model, decay=decay, denominator="sum")
    before, after = dict(model.named_parameters()), dict(converted.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not converted.training
    gla = LinearAttentionSpec(n_heads=4, key_dim=4, value_dim=4, convolution=2)
    gated = TinyLM(replace(model.config, attention=gla))
    assert sum(p.numel() for n, p in gated.named_parameters() if "decay" in n) > 0
    with torch.no_grad():
        converted.embed.weight.zero_()
    assert model.embed.weight.abs().sum() > 0


def test_is_converted_again_from_what_it_was(model: TinyLM, tokens: torch.Tensor) -> None:
    once = to_liger(model, decay="head", window=2)
    again = to_liger(once, mix=0.0, window=None)
    assert again.config.mixers[0] == LigerSpec(attention=SOFTMAX, decay="head", mix=0.0, window=None)
    assert torch.equal(again(tokens), model(tokens))


def test_linear_attention_stays_and_a_model_without_softmax_is_refused(model: TinyLM) -> None:
    gla = LinearAttentionSpec(n_heads=1, key_dim=4, value_dim=4)
    hybrid = TinyLM(replace(model.config, attention=(SOFTMAX, gla)))
    assert to_liger(hybrid, mix=1.0).config.mixers == (LigerSpec(attention=SOFTMAX, mix=1.0), gla)
    with pytest.raises(Refusal, match="to_liger: wanted a model with softmax attention, got none"):
        to_liger(TinyLM(replace(model.config, attention=gla)))
    with pytest.raises(Refusal, match="window >= 1"):
        to_liger(model, window=0)


def test_keeps_the_dtype_and_goes_to_disk(model: TinyLM, tokens: torch.Tensor, tmp_path) -> None:
    converted = to_liger(model.double(), window=3)
    assert converted.head.weight.dtype == torch.float64
    save_model(tmp_path / "liger.safetensors", converted)
    back = load_model(tmp_path / "liger.safetensors")
    assert back.config == converted.config
    assert torch.equal(back(tokens), converted(tokens))


def test_adapters_start_as_nothing_are_seeded_and_alone_learn(model: TinyLM, tokens: torch.Tensor) -> None:
    spec = LoRASpec(rank=3, alpha=6.0)
    adapted = with_lora(to_liger(model, window=3), spec, seed=5)
    assert torch.equal(adapted(tokens), to_liger(model, window=3)(tokens))
    learning = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in learning)
    widths = {"q_proj": 16, "k_proj": 8, "v_proj": 8}
    assert sum(p.numel() for p in learning.values()) == 2 * sum(3 * (12 + width) for width in widths.values())
    drawn = {seed: with_lora(model, spec, seed=seed).state_dict() for seed in (5, 5, 6)}
    name = next(name for name in learning if "lora_A" in name)
    assert torch.equal(drawn[5][name], adapted.state_dict()[name])
    assert not torch.equal(drawn[6][name], drawn[5][name])
    assert model.blocks[0].attention.q_proj.weight.requires_grad


def test_a_trained_adapter_merges_into_a_plain_model(model: TinyLM, tokens: torch.Tensor) -> None:
    """W + (alpha / rank) B A, our own arithmetic, computes what peft's layers do."""
    converted, spec = to_liger(model.double(), window=3, denominator="sum"), LoRASpec(rank=2, alpha=3.0)
    adapted = with_lora(converted, spec)
    Training(adapted, TASK, TrainSpec(steps=3, batch=4, warmup=0, scored="marked")).run(progress=False)
    found = adapters(adapted)
    assert {name.rsplit(".", 2)[-2] for name in found} == set(spec.targets)
    plain = merged(converted, found, spec)
    assert plain.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(plain(tokens), adapted(tokens), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(plain(tokens), converted(tokens), atol=1e-4)
    assert torch.equal(merged(converted, found, replace(spec, alpha=0.0))(tokens), converted(tokens))
    for name, weight in plain.state_dict().items():
        learnt = name.rsplit(".", 2)[-2] in spec.targets if "." in name else False
        assert torch.equal(weight, converted.state_dict()[name]) != learnt


def test_lora_refusals(model: TinyLM) -> None:
    with pytest.raises(Refusal, match=r"with_lora: wanted linear maps of .*q_proj.* got gate_proj"):
        with_lora(model, LoRASpec(targets=("gate_proj",)))
    with pytest.raises(Refusal, match="rank >= 1"):
        LoRASpec(rank=0)
    with pytest.raises(Refusal, match="adapters: wanted a model with adapters, got none"):
        adapters(model)
    a, b = torch.zeros(1, 12), torch.zeros(9, 1)
    for name, words in {"blocks.7.q_proj": "got no", "blocks.0.attention.q_proj": r"of shape \(16, 12\)"}.items():
        with pytest.raises(Refusal, match=words):
            merged(model, {f"{name}.A": a, f"{name}.B": b})

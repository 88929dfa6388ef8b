"""TinyLM: equal to Hugging Face's llama, causal, seeded, strict about its input and its config."""

from __future__ import annotations

import json

import pytest
import torch
from gatescope import checkpoints
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM
from gatescope.taps import Handler, attached
from gatescope_kernels import Visibility


def config_of(*, gate=None, sink=None, tie=False, mlp="swiglu", **attention) -> LMConfig:
    spec = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=8, gate=gate, sink=sink, **attention)
    return LMConfig(vocab=19, d_model=24, n_layers=3, attention=spec, mlp=MLPSpec(mlp, 40), tie_embeddings=tie)


def tokens_of(batch: int = 2, length: int = 11, vocab: int = 19) -> torch.Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(3))


VARIANTS = {
    "softmax": {},
    "gelu": {"mlp": "gelu"},
    "tied": {"tie": True},
    "learned": {"sink": "learned"},
    "off_by_one": {"sink": "off_by_one"},
    "g1": {"gate": GateSpec(position="sdpa", bias_init=2.0)},
    "g2_shared_head": {"gate": GateSpec(position="value", granularity="head", sharing="shared")},
    "g5": {"gate": GateSpec(position="output")},
    "window": {"visibility": Visibility(window=4, sink_tokens=1)},
}
each_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


@pytest.mark.parametrize("tie", [False, True])
def test_equals_hugging_face_llama(tie: bool, require) -> None:
    require("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = config_of(tie=tie, rope_theta=1234.0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab,
            hidden_size=config.d_model,
            intermediate_size=config.mlp.hidden,
            num_hidden_layers=config.n_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": 1234.0},
            tie_word_embeddings=tie,
            attn_implementation="eager",
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.normal_(std=0.3, generator=generator)
    renames = {
        "model.embed_tokens": "embed",
        "model.layers": "blocks",
        "self_attn": "attention",
        "post_attention_layernorm": "mlp_norm",
        "input_layernorm": "attention_norm",
        "model.norm": "norm",
        "lm_head": "head",
    }
    state = {}
    for name, value in llama.state_dict().items():
        for old, new in renames.items():
            name = name.replace(old, new)
        if not (tie and name == "head.weight"):
            state[name] = value
    model = TinyLM(config)
    model.load_state_dict(state)
    tokens = tokens_of()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), llama(tokens).logits, rtol=1e-4, atol=1e-4)


@each_variant
def test_causal(changes: dict) -> None:
    model, tokens = TinyLM(config_of(**changes)).double(), tokens_of()
    later = tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % 19
    before, after = model(tokens), model(later)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-10, atol=1e-10)
    assert ((before - after)[:, 6:].abs().amax(-1) > 1e-6).all()


@each_variant
def test_padding_is_read_by_no_one(changes: dict) -> None:
    model, tokens = TinyLM(config_of(**changes)).double(), tokens_of()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 3:5] = False
    other = tokens.clone()
    other[1, 3:5] = (other[1, 3:5] + 1) % 19
    kept = mask.clone()
    torch.testing.assert_close(model(tokens, mask)[kept], model(other, mask)[kept], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(tokens)[kept], model(other)[kept])


@each_variant
def test_seeds(changes: dict) -> None:
    """One seed, one set of weights, whatever the global generator; a gate or sink changes no other weight."""
    config = config_of(**changes)
    state = torch.random.get_rng_state()
    first = TinyLM(config, init_seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    again, other = TinyLM(config, init_seed=5).state_dict(), TinyLM(config, init_seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attention.q_proj.weight"], other["blocks.0.attention.q_proj.weight"])
    if "gate" in changes or "sink" in changes:
        plain = TinyLM(config_of(), init_seed=5).state_dict()
        assert set(first) > set(plain) or changes.get("sink") == "off_by_one"
        assert all(torch.equal(first[name], plain[name]) for name in plain)


class _Everything(Handler):
    """Lists what passes at the sites a model says it shows."""

    def __init__(self, sites: frozenset[str]) -> None:
        self.sites, self.seen = sites, []

    def watch(self, event) -> None:
        self.seen.append((event.site, event.layer))


class _Values(Handler):
    """Keeps what passes."""

    def __init__(self, sites: set[str]) -> None:
        self.sites, self.values = frozenset(sites), {}

    def watch(self, event) -> None:
        self.values[event.site, event.layer] = event.value


@each_variant
def test_shows_the_sites_it_names(changes: dict) -> None:
    model = TinyLM(config_of(**changes))
    handler = _Everything(model.tap_sites)
    with attached(model, handler):
        model(tokens_of())
    block = ["attention", "attention_update", "mlp", "mlp_update", "resid"]
    block = ["gate", *block] if "gate" in changes else block
    wanted = [("tokens", None), ("key_mask", None), ("embed", None)]
    wanted += [(site, layer) for layer in range(3) for site in block]
    assert handler.seen == [*wanted, ("logits", None)]
    assert {site for site, _ in wanted} | {"logits"} == model.tap_sites


@each_variant
def test_the_stream_is_the_sum_of_what_is_added(changes: dict) -> None:
    model = TinyLM(config_of(**changes)).double()
    seen = _Values({"embed", "attention_update", "mlp_update", "resid", "logits"})
    with attached(model, seen):
        model(tokens_of())
    stream = seen.values["embed", None]
    for layer in range(3):
        stream = stream + seen.values["attention_update", layer] + seen.values["mlp_update", layer]
        torch.testing.assert_close(seen.values["resid", layer], stream)
    torch.testing.assert_close(model.readout(stream), seen.values["logits", None])


@each_variant
def test_what_enters_the_down_projection_is_shown(changes: dict) -> None:
    model = TinyLM(config_of(**changes))
    seen = _Values({"mlp", "mlp_update"})
    with attached(model, seen):
        model(tokens_of())
    for layer, block in enumerate(model.blocks):
        torch.testing.assert_close(block.mlp.down_proj(seen.values["mlp", layer]), seen.values["mlp_update", layer])


@each_variant
def test_packed_documents_read_as_if_alone(changes: dict) -> None:
    model, tokens = TinyLM(config_of(**changes)).double(), tokens_of()
    documents = torch.tensor([[0] * 4 + [1] * 6 + [2], [3] * 11])
    packed = model(tokens, documents=documents)
    for b, start, stop in ((0, 0, 4), (0, 4, 10), (0, 10, 11), (1, 0, 11)):
        alone = model(tokens[b : b + 1, start:stop])
        torch.testing.assert_close(packed[b : b + 1, start:stop], alone, rtol=1e-9, atol=1e-9)


#: The first weights that a model of seed 5 drew before blocks could hold experts.
DRAWN = {
    ("swiglu", False): {
        "embed.weight": [1.8423299, 0.5188872, -1.7119213],
        "blocks.2.attention.q_proj.weight": [-0.0221788, 0.0073053, -0.0250792],
        "blocks.2.attention.k_proj.weight": [0.0200694, -0.0126818, -0.0189321],
        "blocks.2.attention.v_proj.weight": [-0.017119, 0.020198, 0.0087297],
        "blocks.2.attention.o_proj.weight": [0.0035254, -0.0112178, -0.0266824],
        "blocks.2.mlp.gate_proj.weight": [-0.0095193, 0.0190104, -0.0204416],
        "blocks.2.mlp.up_proj.weight": [-0.0212707, -0.0295007, 0.0012185],
        "blocks.2.mlp.down_proj.weight": [0.0356733, -0.012731, -0.0365223],
        "head.weight": [0.0175308, -0.0123356, 0.0152904],
    },
    ("gelu", True): {
        "embed.weight": [0.0368466, 0.0103777, -0.0342384],
        "blocks.2.attention.o_proj.weight": [-0.0312876, 0.0048771, -0.0070516],
        "blocks.2.mlp.up_proj.weight": [0.0023892, 0.019268, -0.0003905],
        "blocks.2.mlp.down_proj.weight": [0.0021951, 0.0100927, -0.0126065],
    },
}


@pytest.mark.parametrize(("mlp", "tie"), DRAWN)
def test_a_seed_draws_what_it_always_drew(mlp: str, tie: bool) -> None:
    state = TinyLM(config_of(mlp=mlp, tie=tie), init_seed=5).state_dict()
    for name, first in DRAWN[mlp, tie].items():
        torch.testing.assert_close(state[name].flatten()[:3], torch.tensor(first), rtol=0, atol=2e-7)


def test_every_shipped_checkpoint_loads(root) -> None:
    files = sorted((root / "data/checkpoints/l02").glob("*.safetensors"))
    assert len(files) == 30
    for file in files:
        assert isinstance(checkpoints.load_model(file).config.mlp, MLPSpec)


@each_variant
def test_config_survives_json(changes: dict) -> None:
    config = config_of(**changes)
    assert LMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def _changed(path: str, value) -> dict:
    data = config_of(gate=GateSpec(position="sdpa")).to_dict()
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("dropout", 0.1, "LMConfig: .*also dropout"),
        ("attention.rope", 1, "AttentionSpec: .*also rope"),
        ("attention.gate.position", "mlp", "GateSpec.position"),
        ("attention.gate.combine", 3, "GateSpec.combine"),
        ("attention.sink", "soft", "AttentionSpec.sink"),
        ("attention.n_kv_heads", 3, "multiple of n_kv_heads"),
        ("attention.head_dim", 7, "even head_dim"),
        ("attention.rope_theta", 0.5, "rope_theta > 1"),
        ("attention.visibility", None, "Visibility: wanted a mapping"),
        ("attention.visibility.window", 0, "window >= 1"),
        ("mlp.kind", "tanh", "MLPSpec.kind"),
        ("mlp.hidden", 0, "hidden >= 1"),
        ("vocab", "19", "LMConfig.vocab: wanted int"),
        ("vocab", True, "LMConfig.vocab: wanted int"),
        ("n_layers", 0, "n_layers >= 1"),
    ],
)
def test_config_refuses(path: str, value, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        LMConfig.from_dict(_changed(path, value))


def test_config_refuses_a_missing_field() -> None:
    data = config_of().to_dict()
    del data["d_model"]
    with pytest.raises(Refusal, match="LMConfig: wanted the fields d_model"):
        LMConfig.from_dict(data)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.tensor([[0, 19]]), "ids from 0 to 19"),
        (torch.tensor([[-1, 3]]), "ids from -1 to 3"),
        (torch.zeros(2, 0, dtype=torch.long), "at least one sequence and one token"),
        (torch.zeros(0, 4, dtype=torch.long), "at least one sequence and one token"),
    ],
)
def test_refuses_tokens(tokens: torch.Tensor, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        TinyLM(config_of())(tokens)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.zeros(4, dtype=torch.long), r"tokens\[None\]"),
        (torch.zeros(1, 4), "int64 or int32"),
        (torch.zeros(1, 4, dtype=torch.bool), "int64 or int32"),
    ],
)
def test_refuses_what_the_signature_rules_out(tokens: torch.Tensor, words: str) -> None:
    """Past the run-time check of shapes that tests switch on, as a user meets it."""
    with pytest.raises(Refusal, match=words):
        TinyLM(config_of())._check(tokens)


def test_holds_smollm2_135m() -> None:
    spec = AttentionSpec(n_heads=9, n_kv_heads=3, head_dim=64, rope_theta=100_000.0)
    config = LMConfig(
        vocab=49152, d_model=576, n_layers=30, attention=spec, mlp=MLPSpec("swiglu", 1536), tie_embeddings=True
    )
    with torch.device("meta"):
        model = TinyLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008

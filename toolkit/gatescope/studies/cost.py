"""What a study would cost at another size: parameters, FLOPs, memory, hours and money a point, on paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec, score_shape
from gatescope.models import LMConfig


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU on paper.

    peak_flops   dense bf16 products, FLOP/s, from the maker's data sheet
    memory       bytes
    utilisation  share of the peak that training keeps up. Not measured by this project; Llama 3 reports 0.38 to 0.43
                 (Grattafiori et al. 2024, table 4)
    price        of an hour, in dollars; what a cloud asked in 2026, so change it
    """

    name: str
    peak_flops: float
    memory: float
    utilisation: float = 0.4
    price: float = 2.5

    def __post_init__(self) -> None:
        if not (0 < self.utilisation <= 1 and self.price >= 0):
            got = f"{self.utilisation} and {self.price}"
            raise Refusal("Machine", "utilisation in (0, 1] and a price of 0 or more", got, "use 0.4 and 2.5")


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("a100", 312e12, 80e9, price=1.5),
        Machine("h100", 989e12, 80e9),
        Machine("h200", 989e12, 141e9),
    )
}
#: The shape of Llama 3.2 1B, the baseline of a study at 1B.
ONE_B = LMConfig(
    vocab=128_256,
    d_model=2048,
    n_layers=16,
    attention=AttentionSpec(n_heads=32, n_kv_heads=8, head_dim=64, rope_theta=500_000.0),
    mlp=MLPSpec("swiglu", hidden=8192),
    tie_embeddings=True,
)
#: Tokens a parameter at which a model of a given compute is best (Hoffmann et al. 2022, Chinchilla).
TOKENS_A_PARAMETER = 20


def with_gate(config: LMConfig, gate: GateSpec) -> LMConfig:
    """The same model with a gate in every block."""
    assert isinstance(config.attention, AttentionSpec)
    return replace(config, attention=replace(config.attention, gate=gate))


def parameters(config: LMConfig) -> int:
    """All parameters of a `TinyLM` of dense blocks.

        N = V D (twice when not tied) + L (2 D + attention + MLP) + D

    Raises Refusal for blocks of another kind.
    """
    embedding = config.vocab * config.d_model * (1 if config.tie_embeddings else 2)
    norms = config.d_model * (2 * config.n_layers + 1)
    biases = config.n_layers * _gate_width(config) * int(_has_bias(config))
    return embedding + norms + biases + config.n_layers * _block(config)


def train_flops(config: LMConfig, tokens: float | int, length: int) -> float:
    """FLOPs of one pass over ``tokens``, forward and backward, in sequences of ``length`` T.

        6 M tokens + attention     M: weights that multiply, all matrices but the embedding that is looked up

    What a kernel computes again in the backward pass is not counted, as in the utilisation of Machine.
    Source: Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022 (PaLM), appendix B.
    """
    weights = config.n_layers * _block(config) + config.vocab * config.d_model
    return 6.0 * weights * tokens + attention_flops(config, tokens, length)


def attention_flops(config: LMConfig, tokens: float | int, length: int) -> float:
    """FLOPs of scores and values, forward and backward, of the T (T + 1) / 2 pairs that a causal mask leaves.

    12 L H K T (T + 1) / 2 a sequence = 6 L H K (T + 1) a token
    """
    attention = _attention(config)
    return 6.0 * config.n_layers * attention.n_heads * attention.head_dim * (length + 1) * tokens


def memory_bytes(config: LMConfig, batch: int, length: int) -> float:
    """Bytes to train with Adam in mixed precision, on one device.

        16 N                   bf16 weight and gradient, fp32 weight and two moments (ZeRO: Rajbhandari et al. 2020)
        + 2 L B T D            bf16 input of every block, the rest computed again (Chen et al. 2016)
        + 34 B T D             what one block keeps while it is computed again, scores left out, which no kernel of
                               ours holds (Korthikanti et al. 2022, eq. 2)
        + 8 B T V              fp32 logits and their gradient

    Allocators, fragments and communication come on top.
    """
    cells = batch * length
    states = 16 * parameters(config)
    kept = 2 * config.n_layers * cells * config.d_model + 34 * cells * config.d_model
    return float(states + kept + 8 * cells * config.vocab)


@dataclass(frozen=True, slots=True)
class Bill:
    """One point, and the whole study."""

    parameters: int
    flops: float
    memory: float
    gpu_hours: float
    dollars: float
    study_gpu_hours: float
    study_dollars: float


def bill(
    config: LMConfig,
    machine: Machine,
    *,
    points: int = 1,
    tokens: float | int | None = None,
    length: int = 4096,
    batch: int = 4,
) -> Bill:
    """What a study of ``points`` models costs on ``machine``.

        hours = FLOPs / (peak * utilisation) / 3600

    tokens  a model is trained on; 20 a parameter when None
    batch   sequences a device holds at once, for the memory

    Raises Refusal for fewer than one point or token.
    """
    size = parameters(config)
    tokens = TOKENS_A_PARAMETER * float(size) if tokens is None else float(tokens)
    if points < 1 or tokens < 1:
        raise Refusal("bill", "points and tokens of 1 or more", f"{points} and {tokens:g}", "give both")
    flops = train_flops(config, tokens, length)
    hours = flops / (machine.peak_flops * machine.utilisation) / 3600
    dollars = hours * machine.price
    memory = memory_bytes(config, batch, length)
    return Bill(size, flops, memory, hours, dollars, points * hours, points * dollars)


def table(machine: Machine, points: int, *, tokens: float | int | None = None, length: int = 4096) -> list[str]:
    """The 1B model without a gate and with the widest and the narrowest one, as a Markdown table."""
    gates = {
        "no gate": None,
        "after SDPA, a score a channel": GateSpec(position="sdpa"),
        "after SDPA, a score a head": GateSpec(position="sdpa", granularity="head"),
    }
    rate = f"{machine.utilisation:.0%} of {machine.peak_flops / 1e12:g} TFLOP/s, ${machine.price:g} an hour"
    lines = [
        f"| {machine.name}, {rate} | parameters | FLOPs a point | memory | GPU hours | $ a point | {points} points |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gate in gates.items():
        config = ONE_B if gate is None else with_gate(ONE_B, gate)
        found = bill(config, machine, points=points, tokens=tokens, length=length)
        size = f"{found.parameters / 1e9:.3f} B | {found.flops:.2e} | {found.memory / 1e9:.0f} GB"
        study = f"{found.study_gpu_hours:,.0f} h, ${found.study_dollars:,.0f}"
        lines.append(f"| {name} | {size} | {found.gpu_hours:,.0f} | {found.dollars:,.0f} | {study} |")
    return lines


def _attention(config: LMConfig) -> AttentionSpec:
    found = config.attention
    if not isinstance(found, AttentionSpec) or found.convolution is not None:
        raise Refusal("cost", "softmax attention of one kind, without convolution", repr(found), "count it by hand")
    return found


def _gate_width(config: LMConfig) -> int:
    """Scores a token and block."""
    attention = _attention(config)
    if attention.gate is None:
        return 0
    heads, channels = score_shape(
        attention.gate,
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        head_dim=attention.head_dim,
        d_model=config.d_model,
    )
    return heads * channels


def _has_bias(config: LMConfig) -> bool:
    gate = _attention(config).gate
    return gate is not None and (gate.bias_init is not None or gate.input == "none")


def _block(config: LMConfig) -> int:
    """Weights of one block that multiply a token."""
    attention, mlp = _attention(config), config.mlp
    if not isinstance(mlp, MLPSpec):
        raise Refusal("cost", "one dense MLP a block", repr(mlp), "count its experts by hand")
    width = attention.n_heads * attention.head_dim
    projections = config.d_model * (2 * width + 2 * attention.n_kv_heads * attention.head_dim)
    gated = attention.gate is not None and attention.gate.input == "token"
    gate = config.d_model * _gate_width(config) if gated else 0
    return projections + gate + (3 if mlp.kind == "swiglu" else 2) * config.d_model * mlp.hidden


__all__ = [
    "MACHINES",
    "ONE_B",
    "Bill",
    "Machine",
    "attention_flops",
    "bill",
    "memory_bytes",
    "parameters",
    "table",
    "train_flops",
    "with_gate",
]

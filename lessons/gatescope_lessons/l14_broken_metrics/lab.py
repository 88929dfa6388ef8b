"""The patients of lesson 14, one row each: what came in, what is sound, and what it is tried on."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import torch
from gatescope.errors import Refusal

from gatescope_lessons.l14_broken_metrics import broken, inputs, sound
from gatescope_lessons.l14_broken_metrics.inputs import LAYERS, LENGTH, TEXT, Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A metric that looks sound and is not.

    name      what is measured, as the panel lists it
    symptom   what its figure seems to find
    data      what it was measured on
    fault     what is wrong
    met       where the fault was met
    probe     what of the toolkit computes it soundly
    unit      of both numbers
    control   what the dose is: the label of its axis
    doses     what the control can be set to; ``log``: its axis is logarithmic
    start     the dose at which the two numbers differ by ``differ`` or more
    inputs    dose -> arguments of both functions
    harmless  arguments on which the fault does nothing: the numbers agree within ``agree``
    where     in words, where that is

    Raises Refusal when ``start`` is none of the doses.
    """

    name: str
    symptom: str
    data: str
    fault: str
    met: str
    probe: str
    unit: str
    control: str
    doses: tuple[float | int, ...]
    start: float | int
    inputs: Callable[[Any], Inputs]
    harmless: Callable[[], Inputs]
    where: str
    broken: Callable[..., Any]
    sound: Callable[..., Any]
    differ: float | int
    agree: float | int = 1e-9
    log: bool = True

    def __post_init__(self) -> None:
        if self.start not in self.doses:
            raise Refusal("Patient", f"a start among {self.doses}", f"{self.start}", "open on a dose it can have")

    def numbers(self, given: Inputs) -> tuple[float, float]:
        """What the broken and the sound function say of the same arguments."""
        return float(self.broken(**given)), float(self.sound(**given))


def _column(first: torch.Tensor) -> Inputs:
    return {"first": first}


def _padded(padding: int) -> Inputs:
    values = inputs.padded_attention()[1 : TEXT + padding]
    return {"values": values[None], "text": (torch.arange(1, TEXT + padding) < TEXT)[None]}


def _with_sink(logit: float | int) -> Inputs:
    return {"scores": inputs.sink_scores(), "sink": torch.tensor(logit, dtype=torch.float64)}


_PATIENTS = (
    Patient(
        name="row entropy",
        symptom="Attention starts out focused and loses its focus as the model reads on.",
        data=f"SmolLM2-135M on {LENGTH} tokens of a story, no BOS; mean over 270 heads",
        fault="Every row is divided by log T, but row i sees only n_i keys and cannot spread over more. Early rows "
        "look focused because they are early.",
        met="A public demo of attention entropy.",
        probe="Entropy: entropy_normalised, H_i / log n_i",
        unit="share of the largest entropy",
        control="keys that the row sees, n",
        doses=tuple(2**power for power in range(1, 8)),
        start=4,
        inputs=lambda n: {"entropy": inputs.row_entropies()[n - 1], "visible": n, "length": LENGTH},
        harmless=lambda: {"entropy": inputs.row_entropies()[LENGTH - 1], "visible": LENGTH, "length": LENGTH},
        where="the last row, which sees all T keys",
        broken=broken.row_entropy,
        sound=sound.row_entropy,
        differ=0.15,
    ),
    Patient(
        name="first-token attention",
        symptom="The gate removes the sink from long sequences only: short ones still have a strong one.",
        data="the element-wise gate of lesson 02 on bigram-binding, BOS in front; last layer, 16 sequences",
        fault="Row 0 sees one key and always gives it 1, and uniform attention gives the first token 1 / (i + 1) of "
        "row i: H_T / T in all, which is much when T is small.",
        met="Tables that quote first-token attention at some T without saying which rows count.",
        probe="Sinks: first_attention (rows from the second) minus its baseline",
        unit="attention to the first token",
        control="tokens of the sequence, T",
        doses=(2, 3, 4, 6, 8, 12, 16, 24, 32, 48),
        start=4,
        inputs=lambda length: _column(inputs.gated_first()[:length]),
        harmless=lambda: _column(1 / torch.arange(1, 4097, dtype=torch.float64)),
        where="uniform attention over 4,096 tokens, where H_T / T is 0.002",
        broken=broken.first_attention,
        sound=sound.first_attention,
        differ=0.3,
        agree=0.005,
    ),
    Patient(
        name="padded batch",
        symptom="The same text has a weaker sink when it is read in a batch with longer ones.",
        data=f"SmolLM2-135M on {TEXT} tokens of a story, no BOS, then <|endoftext|>; 270 heads, rows from the second",
        fault="The mean runs over padding too. Its rows are computed like all others and attend to each other.",
        met="Sums over rows of a whole batch: a kernel's own count padding, and a probe has to take it out.",
        probe="Sinks, and every probe: rows where the key mask is False are left out",
        unit="attention to the first token",
        control=f"padding after {TEXT} tokens of text",
        doses=(0, 4, 8, 16, 32, 64, 96),
        start=64,
        inputs=_padded,
        harmless=lambda: _padded(0),
        where="a batch without padding",
        broken=broken.mean_over_tokens,
        sound=sound.mean_over_tokens,
        differ=0.2,
        log=False,
    ),
    Patient(
        name="learned sink",
        symptom="A sink in the softmax does nothing: whatever its logit, the first token keeps its attention.",
        data="a head of lesson 02 that was trained without a sink, T = 48, BOS in front; the sink is planted",
        fault="The sink is an outcome of every softmax and was left out of the denominator. The rows over real keys "
        "sum to less than 1.",
        met="Attention recomputed from queries and keys of a model whose softmax has one term more.",
        probe="Sinks: first_attention beside sink_mass",
        unit="attention to the first token",
        control="logit of the sink",
        doses=tuple(range(-4, 13)),
        start=6,
        inputs=_with_sink,
        harmless=lambda: _with_sink(-math.inf),
        where="a sink whose logit is minus infinity",
        broken=broken.first_attention_with_sink,
        sound=sound.first_attention_with_sink,
        differ=0.2,
        log=False,
    ),
    Patient(
        name="router entropy",
        symptom="The router is undecided, and sharper logits do not help it.",
        data="the trained top-1 router of lesson 08, 2,048 held-out samples, 8 experts; at most log 8 = 2.079",
        fault="What came under the name of logits were probabilities. A second softmax flattens them: between 0 and 1 "
        "there is no room for a decision.",
        met="Several families of models return probabilities as router_logits.",
        probe="Routing: router_entropy, which knows what each family returns",
        unit="nats",
        control="factor on the true logits",
        doses=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        start=1.0,
        inputs=lambda factor: {"router_logits": (factor * inputs.router_logits()).softmax(-1)},
        harmless=lambda: {"router_logits": inputs.router_logits()},
        where="the same router when it returns its logits",
        broken=broken.router_entropy,
        sound=sound.router_entropy,
        differ=1.0,
        log=False,
    ),
    Patient(
        name="balance over layers",
        symptom="The load is even to within a quarter of the best value, whatever befalls the layers.",
        data=f"{LAYERS} planted routers of 8 experts, 256 tokens; even: 1, all on one expert: 8",
        fault="The layers are pooled before they are counted. Layers that collapse onto different experts make up for "
        "each other; no token can choose between layers.",
        met="A balancing loss computed on the router outputs of all layers concatenated.",
        probe="Routing: switch_loss, one a layer",
        unit="balancing loss (even: 1)",
        control=f"collapsed layers of {LAYERS}, each onto its own expert",
        doses=tuple(range(LAYERS + 1)),
        start=LAYERS,
        inputs=inputs.collapsed,
        harmless=lambda: inputs.collapsed(0),
        where="layers that are all even",
        broken=broken.balance,
        sound=sound.balance,
        differ=5.0,
        agree=0.1,
        log=False,
    ),
    Patient(
        name="dead experts",
        symptom="Most experts are dead when batches are small: this router should be trained on large ones.",
        data="the trained top-1 router of lesson 08, 2,048 held-out samples, 8 experts",
        fault="An expert whom nobody of one batch visits is not dead. Dead is a statement about a window, and a window "
        "smaller than a few times the number of experts says little.",
        met="Counts of dead experts logged batch by batch, without the size of the window.",
        probe="Routing: experts_dead, with window_tokens and the baseline E (1 - k/E)^N beside it",
        unit="experts",
        control="samples in a batch",
        doses=tuple(2**power for power in range(2, 12)),
        start=8,
        inputs=inputs.batches,
        harmless=lambda: inputs.batches(2048),
        where="one batch that is the whole window",
        broken=broken.dead_experts,
        sound=sound.dead_experts,
        differ=1.0,
    ),
    Patient(
        name="seeds",
        symptom="The two gates do not differ: the difference is small beside the scatter over seeds.",
        data="massive ratio of the two gates of lesson 02, 5 seeds; 95 % of pairs by chance lie within 2.776",
        fault="Seeds share batches and first weights, so most of the scatter is common to both variants and cancels in "
        "the difference of a pair. The error of two separate means does not know that.",
        met="Tables of mean ± standard deviation a variant, compared by eye.",
        probe="intervals.t_interval of the differences, seed by seed",
        unit="difference over its standard error",
        control="factor on what the two runs of a seed share",
        doses=(0.25, 0.5, 1.0, 2.0, 4.0),
        start=1.0,
        inputs=inputs.seeds,
        harmless=inputs.unrelated_seeds,
        where="runs that share nothing by seed",
        broken=broken.difference,
        sound=sound.difference,
        differ=1.0,
    ),
)
#: Name -> patient.
PATIENTS: dict[str, Patient] = {patient.name: patient for patient in _PATIENTS}


def patient(name: str) -> Patient:
    """One of PATIENTS. Raises Refusal for another name."""
    if name not in PATIENTS:
        raise Refusal("patient", f"one of {', '.join(PATIENTS)}", repr(name), "choose one of them")
    return PATIENTS[name]


@cache
def curve(name: str) -> pd.DataFrame:
    """Columns dose, broken, sound: both numbers at every dose of a patient. Raises Refusal for an unknown one."""
    one = patient(name)
    rows = [(dose, *one.numbers(one.inputs(dose))) for dose in one.doses]
    return pd.DataFrame(rows, columns=["dose", "broken", "sound"])


def code(function: Callable[..., Any]) -> str:
    """The source of a metric without its docstring and the names of its shapes."""
    lines = re.sub(r'\n    """.*?"""', "", inspect.getsource(function), flags=re.DOTALL)
    return re.sub(r'(?:Float|Int|Bool)\[Tensor, "[^"]*"\]', "Tensor", lines).strip()

# %% [markdown]
# The lessons before this one measured models that came with them. This one is about **yours**. You have a model in
# PyTorch, from Hugging Face or written by hand, and half an hour. Everything you need is one block:
#
# ```python
# from gatescope.probes import Entropy, Routing, Sinks
# from gatescope.scope import Scope
#
# with torch.no_grad(), Scope(model, probes=[Sinks(), Entropy()]) as scope:
#     model(tokens)                      # as you always call it; several calls add up
# record = scope.record()                # an xarray.Dataset that says what its numbers mean
# ```
#
# The model is as before when the block ends, whatever ends it. What cannot be measured is refused with a reason; it
# never becomes a zero. Run the lesson once from top to bottom on the models below, then put your own in their place.

# %% tags=["parameters"]
profile = "quick"

# %%
import inspect
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from gatescope import panels, records, views
from gatescope.cli import main as gatescope
from gatescope.errors import Refusal
from gatescope.interventions import DropExperts, MaskKeys
from gatescope.models.smollm2 import load_smollm2
from gatescope.probes import Entropy, Massive, Routing, Sinks
from gatescope.scope import Scope
from gatescope.series import measure_series
from gatescope.taps import AttentionCall, attend
from gatescope.tasks.text import TEXTS
from torch.nn import functional

from gatescope_lessons.l02_one_gate_no_sink import lab as gates
from gatescope_lessons.l13_scope_your_own_model import checks, foreign, lab, page, training
from gatescope_lessons.l13_scope_your_own_model.panel import pieces, routing_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp(prefix="gatescope-"))

# %% [markdown]
# ## A model from Hugging Face
#
# Here is SmolLM2-135M as a `LlamaForCausalLM` of transformers. Online you would write
# `AutoModelForCausalLM.from_pretrained(...)`; here the weights come from the package, so that nothing is downloaded.
# Fifteen families show everything (`docs/families.md` lists them: Llama, Mistral, Qwen3, Gemma, Mixtral, OLMoE,
# DeepSeek-V3, gpt-oss, ...). Any other model of transformers that attends through its `AttentionInterface` shows its
# attention.

# %%
pretrained = load_smollm2()
llama = foreign.as_llama(pretrained)
tokens = pretrained.tokenizer.prepare(TEXTS["story"].text)

with torch.no_grad(), Scope(llama, probes=[Sinks(), Entropy(), Massive()]) as scope:
    llama(tokens, use_cache=False)
record = scope.record()
views.sink_heatmap(record)

# %% [markdown]
# Ask a record what its numbers mean; every variable brings its definition and what it would be on a model that knows
# nothing.

# %%
records.describe(record).set_index("variable").loc[["first_attention", "entropy", "massive_ratio"]].T

# %% [markdown]
# ### What it costs
#
# A matrix of attention weights has $T^2$ entries a head. No probe ever makes one: sinks and entropy come from the same
# tiles that compute the output, and what is kept grows with $T$ at most. For this model, in memory:

# %%
L, H = llama.config.num_hidden_layers, llama.config.num_attention_heads
kept = record.nbytes / tokens.shape[1]
pd.DataFrame(
    {
        "all T x T weights, MB": [4 * L * H * T * T / 1e6 for T in (tokens.shape[1], 2048, 8192)],
        "this record, MB": [kept * T / 1e6 for T in (tokens.shape[1], 2048, 8192)],
    },
    index=pd.Index([tokens.shape[1], 2048, 8192], name="tokens T"),
).round(1)

# %% [markdown]
# The first row is measured, the others are scaled from it: the matrices by $T^2$, the record by $T$, which is more
# than it takes. In time, a scoped pass costs about one more pass of attention.
#
# ## Packed documents, and decoding with a cache
#
# Two texts in one row, told apart by position ids that start again at 0, as trainers pack them: each is a sample of
# its own, and its first token is *its* first token.

# %%
sentences = ("The cat sat on the mat.", "It rained in the town all day.")
texts = [pretrained.tokenizer.prepare(text) for text in sentences]
packed = torch.cat(texts, dim=1)
positions = torch.cat([torch.arange(text.shape[1]) for text in texts])[None]

with torch.no_grad(), Scope(llama, probes=[Sinks()]) as scope:
    llama(packed, position_ids=positions, use_cache=False)
together = float(scope.record().first_attention.mean())

with torch.no_grad(), Scope(llama, probes=[Sinks()]) as scope:
    for text in texts:
        llama(text, use_cache=False)
apart = float(scope.record().first_attention.mean())
print(f"packed: {together:.4f}, one after the other: {apart:.4f}")

# %% [markdown]
# And generation: the prompt once, then a token at a time against the cache. All of it is counted.

# %%
with torch.no_grad(), Scope(llama, probes=[Sinks(), Entropy()]) as scope:
    answer = llama.generate(tokens[:, :40], max_new_tokens=8, do_sample=False)
print(pretrained.tokenizer.decode(answer[0, 40:]))
print(scope.record().attrs["n_tokens"], "tokens seen: 40 of the prompt and 7 of 8 generated")

# %% [markdown]
# The last token is generated but never read, hence 7.
#
# ## A model in plain PyTorch
#
# If your attention calls `scaled_dot_product_attention`, there is nothing to do. `foreign.OwnLM` is a small model in
# plain PyTorch with the weights of lesson 02; its attention is this function:


# %%
def with_sdpa(q, k, v, layer):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


weights = gates.load("softmax")
sequences, _ = gates.held_out(8)

with torch.no_grad(), Scope(plain := foreign.OwnLM(weights, with_sdpa), probes=[Sinks()]) as scope:
    plain(sequences)
print(f"largest first-token attention: {float(scope.record().first_attention.max()):.3f}")

# %% [markdown]
# Layers are numbered as they run. `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` are seen too, and so are
# masks of padding, causality and sliding windows.
#
# ## A model that nobody can see into
#
# Many research models write attention out. Then it is a matrix product like any other:

# %%
print(inspect.getsource(foreign.by_hand))


def refusal(action):
    """What is said when something cannot be done."""
    try:
        with torch.no_grad():
            action()
    except Refusal as error:
        return str(error)
    raise AssertionError("this was not refused")


def scoped(model, *probes, **settings):
    """A forward pass under probes."""
    with Scope(model, probes) as scope:
        model(**settings)
    return scope.record()


print(refusal(lambda: scoped(foreign.OwnLM(weights, foreign.by_hand), Sinks(), tokens=sequences)))

# %% [markdown]
# Read it as four parts: **who** asks, what was **wanted**, what came (**got**), and the **next step**. Take that step.
# Two calls make a model of your own measurable:
#
# - `attend(AttentionCall(q, k, v), layer=layer)` *is* the attention: causal, scaled by $1/\sqrt K$, with grouped heads
#   if `k` and `v` have fewer. Fields of `AttentionCall` say what differs: `visibility` for windows, `sink`, `gate`,
#   `documents`, `softcap`.
# - `x = tap(name, x, layer=layer)` shows any other tensor, and lets interventions change it. `name` is one of
#   `taps.SITES`: `"resid"` for the residual stream, `"mlp"`, `"router"`, `"logits"`, ...
#
# The class then lists what it shows: `tap_sites = frozenset({"attention", "resid"})`. While nobody watches, both calls
# cost a lookup.
#
# ## Exercise 1: make it visible
#
# Write the attention of `foreign.TappedLM` (it shows its residual stream already). The check runs your model, compares
# its logits with those of the hand-written one, and its sink score with that of the model the weights came from.


# %% tags=["exercise"]
def attention(q, k, v, layer):
    """q, k, v: [B, H, T, K], RoPE applied, not scaled; returns what the heads read, [B, H, T, K]."""
    return ...


checks.tapped_attention(attention)


# %% tags=["solution"]
def attention(q, k, v, layer):
    """q, k, v: [B, H, T, K], RoPE applied, not scaled; returns what the heads read, [B, H, T, K]."""
    return attend(AttentionCall(q, k, v), layer=layer)


checks.tapped_attention(attention)

# %% [markdown] tags=["hint"]
# You need no softmax. `attend` takes one value that describes the attention, and the number of the block.

# %% [markdown] tags=["hint"]
# `AttentionCall(q, k, v)` is all this model needs: it is causal, and the scale is the usual one.

# %% [markdown]
# ## A mixture of experts
#
# In a mixture of experts the MLP of a block is divided in $E$ parts, and a **router** sends every token to $k$ of them:
# $p = \mathrm{softmax}(x W_r)$, the $k$ largest are visited, their outputs added with weights. One probe, `Routing`,
# watches all routers. First on a tiny random Mixtral of transformers, to see that it is the same block of code:

# %%
from transformers import MixtralConfig, MixtralForCausalLM

small = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 50}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
torch.manual_seed(0)
config = MixtralConfig(**small, **heads, num_local_experts=6, num_experts_per_tok=2)
mixtral = MixtralForCausalLM(config).eval()
routed = scoped(mixtral, Routing(), Sinks(), input_ids=torch.arange(48)[None])
print(f"effective experts by layer, of 6: {routed.experts_effective.values.round(2)}")

# %% [markdown]
# Now one that has learnt something. It has 4 layers of 8 experts, 2 a token, and was trained for 400 steps on Python's
# help topics, byte by byte, with loss-free balancing. It comes with this lesson, as do its earlier stages. It reads 25
# crops of five texts that it never saw, packed into one sequence.

# %%
moe = lab.load()
held_out, documents = lab.held_out()
routed = scoped(moe, Routing(keep=True), tokens=held_out, documents=documents)
views.expert_load_heatmap(routed)

# %%
summary = ["load_entropy", "experts_effective", "load_violation", "experts_dead", "router_entropy"]
routed[summary].to_dataframe().round(3)

# %% [markdown]
# | number | says | at best |
# |---|---|---|
# | `expert_load` | share of all visits, a layer an expert | $1/E$ |
# | `load_entropy` | how even the load is, $H(f) / \log E$ | 1 |
# | `load_violation` | MaxVio: the busiest expert over the mean, less 1 | 0 |
# | `experts_dead` | experts that nobody visited *in the window* | 0 |
# | `router_entropy` | how unsure the router is of a single token, in nats | small, if it has learnt |
#
# Mind the difference between the first entropy and the last. A router may be certain of every token (low router
# entropy) and spread the tokens evenly (high load entropy): that is what one hopes for.
#
# ## Exercise 2: how sure is a router?
#
# Return the entropy of a router, token by token, as a share of the largest value it can have.


# %% tags=["exercise"]
def router_entropy(p):
    """p: [T, E], probabilities; returns a number from 0 to 1."""
    return ...


checks.router_entropy(router_entropy)


# %% tags=["solution"]
def router_entropy(p):
    """p: [T, E], probabilities; returns a number from 0 to 1."""
    return -torch.special.xlogy(p, p).sum(-1).mean() / math.log(p.shape[-1])


checks.router_entropy(router_entropy)

# %% [markdown] tags=["hint"]
# The entropy of each token first, then the mean; the largest entropy over $E$ experts is $\log E$.

# %% [markdown]
# ### Who goes with whom, and who serves which byte

# %%
views.coactivation_heatmap(routed)

# %%
spelled = routed.assign_coords(piece=("token", pieces(held_out)))
views.token_expert_map(spelled.isel(token=slice(0, 96)), layer=0)

# %% [markdown]
# Hover over the columns: in layer 0, does a letter always go to the same experts? The panel below shows it for your own
# text. First an exercise.
#
# ## Exercise 3: find the dead
#
# Given the experts and weights of some tokens, return the experts that none of them visits.


# %% tags=["exercise"]
def dead_experts(index, weight, experts):
    """index, weight: [T, k]; experts: how many there are; returns their numbers as a list."""
    return ...


checks.dead_experts(dead_experts)


# %% tags=["solution"]
def dead_experts(index, weight, experts):
    """index, weight: [T, k]; experts: how many there are; returns their numbers as a list."""
    return sorted(set(range(experts)) - set(index[weight != 0].tolist()))


checks.dead_experts(dead_experts)

# %% [markdown] tags=["hint"]
# Does a visit of weight 0 change anything?

# %% [markdown]
# ## Change it, beside a control
#
# A number that you only watch may mean nothing. So take the thing away and look at the loss, always beside a **matched
# random control**: as much change, elsewhere. Every intervention brings its own.

# %%
mask = MaskKeys([0])


@torch.no_grad()
def llama_loss():
    logits = llama(tokens, use_cache=False).logits[0, :-1]
    return float(functional.cross_entropy(logits, tokens[0, 1:]))


def under(change, model, measured):
    with change.on(model):
        return measured()


rows = {"SmolLM2 as it is": llama_loss(), "its first key hidden": under(mask, llama, llama_loss)}
for seed in range(2):
    rows[f"control {seed}: another key"] = under(mask.control(seed), llama, llama_loss)


def moe_loss():
    return lab.loss(moe)


busiest = int(routed.expert_load.mean("layer").argmax("expert"))
drop = DropExperts([busiest])
rows |= {"mixture as it is": moe_loss(), f"without expert {busiest}": under(drop, moe, moe_loss)}
for seed in range(3):
    rows[f"control {seed}: another expert of its load"] = under(drop.control(seed), moe, moe_loss)
pd.Series(rows, name="loss, nats a token").to_frame().round(3)

# %% [markdown]
# Hiding the first key of SmolLM2 takes away a third of all attention, and costs hardly more than hiding some other key.
# Dropping the busiest expert costs something, and so does dropping another one of about the same load: only what it
# costs *beyond its control* is its own.
#
# ## Your text, any stage, any expert
#
# Every move runs the model of that step on your text, with and without the expert. Which bytes change hands when you
# drop one? Go back to step 40: what has happened to the load, and to the entropy of the router? Then to step 0.

# %%
router = routing_panel("def area(width, height):\n    return width * height")
router

# %% [markdown]
# ## While it trains
#
# `Recorder` measures a held-out batch every so many steps of **your own** loop. It is two lines in it:
#
# ```python
# recorder = Recorder(model, [Routing(), Sinks()], "runs/one", every=50, tokens=held_out)
# for step in range(start, 10_001):
#     ...                                  # forward, backward, as you have it
#     optimizer.step()
#     recorder.step(step)                  # every 50 steps; the others cost nothing
# ```
#
# The run ends with the same bits as without it: modes and random state are put back. Rows lie on disk when the call
# returns. To see what that is worth, here is a small run of 60 steps in a process of its own, with a row every 10 steps
# and a checkpoint every 20. It is killed with signal 9, in the middle of step 37.

# %%
killed, whole = folder / "killed", folder / "whole"
command = [sys.executable, "-m", training.__name__, str(killed), "37"]
process = subprocess.run(command, capture_output=True)
print(f"the process ended with {process.returncode}")
print("rows on disk:", records.load(killed / "record.zarr").step.values.tolist())

# %% [markdown]
# Now go on. The loop finds the checkpoint of step 20. The row of step 30 is later than that, so it is dropped and
# comes again. Beside it, the same run without an accident:

# %%
resumed = training.Loop(training.RUNS["binding"], folder=killed)
print(f"the checkpoint found is that of step {resumed.step}")
resumed.train(recorder := training.binding_recorder(resumed, killed))

uninterrupted = training.Loop(training.RUNS["binding"], folder=whole)
uninterrupted.train(training.binding_recorder(uninterrupted, whole))

after, without = recorder.record, records.load(whole / "record.zarr")
print("rows now:", after.step.values.tolist())
same = all(after[name].variable.equals(without[name].variable) for name in without.data_vars)
print("the same numbers as without the accident:", same)

# %% [markdown]
# ## Over checkpoints
#
# The run is long over and all you have is files? `measure_series` opens them one at a time and makes one record along
# `step`. Give it `path=` and it, too, goes on where it was stopped.
#
# Out of two such records comes **router saturation** (Muennighoff et al. 2024): the share of a token's experts that are
# already those of the finished model.

# %%
guess = predict(
    "l13-saturation",
    "After two fifths of the training, in which layer do most tokens have their final experts?",
    lab.WHERE,
    headless="in the last",
)
guess

# %%
series = measure_series(lab.shipped(), lab.probes, held_out, forward=lab.forward, progress=False)
settled = lab.summarised(series).routing_saturation
settled.to_pandas().round(2)

# %%
record_of_claims = lab.published()
over_seeds = record_of_claims.routing_saturation.sel(layer=[0, 3]).rename(layer="variant")
curve = over_seeds.assign_coords(variant=["first layer", "last layer"]).to_dataset()
views.curves(curve.assign_attrs(record_of_claims.attrs), "routing_saturation")

# %%
early = record_of_claims.routing_saturation.sel(step=lab.EARLY)
guess.reveal(*lab.settled_first(early))

# %% [markdown]
# ### Two records side by side
#
# Two checkpoints, a model before and after you put a gate in, two texts: `panels.compare_records` aligns any two
# records by name and label, and says what it left out. Two stages of the mixture:

# %%
stages = {f"step {step}": series.sel(step=step, drop=True) for step in (40, 400)}
compared = panels.compare_records(*stages.values(), labels=tuple(stages))
compared.apply(metric="expert_load", along=("layer", "expert"))
compared

# %% [markdown]
# ## From the command line
#
# Without a line of Python: `gatescope scan` reads a text with a model (a folder with safetensors, a GGUF file, or a
# name on the hub) and leaves a record and a report that opens offline. This is what the command does, called from here:

# %%
for name in ("story", "code"):
    text = TEXTS[name].text[:300]
    gatescope(["scan", "smollm2", "--prompt", text, "--out", str(folder / name)])
page.shown(folder / "story" / "report.html")

# %% [markdown]
# And `gatescope compare` holds two of them against each other (`--out` writes a page with figures):

# %%
names = ["first_attention", "entropy_normalised", "value_drain", "massive_ratio"]
files = [str(folder / name / "record.nc") for name in ("story", "code")]
_ = gatescope(["compare", *files, "--variables", *names])

# %% [markdown]
# ## Exercise 4: why was it refused?
#
# Four refusals, and four reasons:

# %%
hidden, two = foreign.OwnLM(weights, foreign.by_hand), held_out[:, :64].repeat(2, 1)
attempts = {
    "by hand": lambda: scoped(hidden, Sinks(), tokens=sequences),
    "output_attentions": lambda: scoped(llama, Sinks(), input_ids=tokens, output_attentions=True),
    "two sequences": lambda: scoped(moe, Routing(keep=True), tokens=two),
    "compiled": lambda: scoped(torch.compile(moe), Routing(), tokens=held_out),
}
refusals = {case: refusal(attempt) for case, attempt in attempts.items()}
for case, said in refusals.items():
    print(f"{case}:\n    {said}\n")
for letter, reason in checks.REASONS.items():
    print(f"({letter}) {reason}")

# %% tags=["exercise"]
# A letter each.
reasons = {"by hand": ..., "output_attentions": ..., "two sequences": ..., "compiled": ...}

checks.why_refused(reasons)

# %% tags=["solution"]
reasons = {"by hand": "a", "output_attentions": "b", "two sequences": "c", "compiled": "d"}

checks.why_refused(reasons)

# %% [markdown] tags=["hint"]
# Read what follows *got* in each of them. Every reason fits once.

# %% [markdown]
# ## What the papers say, and what we measured
#
# Two papers looked into the routers of large mixtures. What would count was written down before our record was made:
# five seeds of the small model, judged on text that none of them was trained on. The sections are those of the papers'
# analyses; their abstracts say nothing of these points but "high specialization" (OLMoE).

# %%
scoreboard("l13_scope_your_own_model")

# %% [markdown]
# Said plainly:
#
# - **The token, not the topic: shown, and not learnt.** The byte alone tells 1.2 to 1.8 of the 2.1 nats that there are
#   to know about its first expert, the text it comes from 0.03 at most. But look at step 0 below: an *untrained* router
#   does the same, because it, too, is a function of what the token is. What training adds is the opposite: in the later
#   layers the byte comes to tell less, and the topic a little.
# - **Consecutive tokens: contradicted.** Neighbouring bytes meet in one expert *less* often than chance. A letter is
#   mostly followed by one of another kind, and routing goes by the byte; Mixtral's tokens are pieces of words. Only in
#   the last layer, where more than the byte counts, does the rate come near chance, and in two of five seeds past it.
# - **Early: shown, from a high start.** 68 % of the final experts after two fifths. But 41 % are right before the first
#   step, not the 25 % of chance: what a random router makes of a byte is partly what it keeps.
# - **Later layers first: contradicted.** Here the first layer leads. What its router sees is little more than the
#   embedding, which settles soon; the inputs of later layers move for as long as those before them learn. Four layers
#   and 400 steps are not 16 layers and 1.2 million.
# - **Little co-activation: contradicted.** In every seed two experts share most of their tokens. With two of eight
#   experts a token there are few pairs to choose from; OLMoE has eight of sixty-four.
#
# Three of five against the papers is a finding about this model and no judgement on theirs. It is the reason for this
# lesson: measure your own.

# %%
told = record_of_claims[["token_information", "topic_information"]].mean("seed").sel(step=[0, lab.STEPS])
told.to_dataframe().unstack("layer").round(3)

# %% [markdown]
# ## Your model, in 30 minutes
#
# 1. **Try it**: `with Scope(model, [Sinks(), Entropy()]) as scope: model(...)`. From transformers or with
#    `scaled_dot_product_attention` it works at once. (2 minutes)
# 2. **Refused?** Read the next step in the message. Written by hand: `attend` for the attention, `tap` for the rest, a
#    line of `tap_sites`. Compiled: attach before `torch.compile`. Dropout: `model.eval()`. (10 minutes)
# 3. **Prove that nothing changed**: the logits with and without, `torch.allclose`. (2 minutes)
# 4. **Look**: `records.describe(record)`, then the views that fit: `sink_heatmap`, `entropy_profile`,
#    `massive_profile`, `expert_load_heatmap`. Hold every number against its `baseline_value`. (5 minutes)
# 5. **Control**: an intervention and its `.control(seed)`. Without it you have a picture and no finding. (5 minutes)
# 6. **Keep it running**: two lines of `Recorder` in the loop; `records.save(record, "before.nc")`, and next week
#    `gatescope compare before.nc after.nc`. (5 minutes)
#
# ## Further reading
#
# - `docs/families.md`: every family that is watched, what it shows, and the tests that hold it
# - Jiang et al. 2024, *Mixtral of Experts*, arXiv 2401.04088, section 5
# - Muennighoff et al. 2024, *OLMoE: Open Mixture-of-Experts Language Models*, arXiv 2409.02060, section 5
# - Wang et al. 2024, *Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts*, arXiv 2408.15664
# - Xue et al. 2024, *OpenMoE: An Early Effort on Open Mixture-of-Experts Language Models*, arXiv 2402.01739: routing by
#   token rather than context, settled early

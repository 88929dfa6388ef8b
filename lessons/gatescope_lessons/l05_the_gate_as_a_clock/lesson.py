# %% [markdown]
# Softmax attention keeps every key and value it ever saw. Linear attention keeps one matrix, adds every token to it,
# and reads from the sum: cheap, and sooner or later a muddle. So let the matrix forget, and let each token say how
# fast: the gate is a clock. Here you compute the same thing in three forms, turn the clock by hand, and find out what
# a gate can do that a fixed decay cannot, and what neither can.

# %% tags=["parameters"]
profile = "quick"

# %%
import math
import time

import torch
from gatescope import panels, views

from gatescope_lessons.l05_the_gate_as_a_clock import checks, forms, lab, live, runs
from gatescope_lessons.l05_the_gate_as_a_clock.panel import clock_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)  # the models are so small that a second thread only gets in the way
record = lab.published()

# %% [markdown]
# ## A state that forgets
#
# $$S_t = a_t\, S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t / \sqrt{K}$$
#
# $S$ has a row for every channel of the keys and a column for every channel of the values. $a_t \in (0, 1]$ is the
# **decay**: with $a = 1$ this is linear attention, which forgets nothing; with a constant it is RetNet; made from the
# token, $a_t = \sigma(x_t W + b)^{1/16}$, it is **gated linear attention** (Yang et al. 2023), which may have a decay
# for every row of $S$.
#
# ## Exercise 1: one token
#
# Forget, write, read. The factor $1/\sqrt{K}$ is left out.


# %% tags=["exercise"]
def one_step(S, q, k, v, a):
    """S: [K, V]; q, k: [K]; v: [V]; a: a number. Returns the new state and the output [V]."""
    return ...


checks.one_step(one_step)


# %% tags=["solution"]
def one_step(S, q, k, v, a):
    """S: [K, V]; q, k: [K]; v: [V]; a: a number. Returns the new state and the output [V]."""
    S = a * S + torch.outer(k, v)
    return S, q @ S


checks.one_step(one_step)

# %% [markdown] tags=["hint"]
# First forget: `a * S`. Then write: plus `torch.outer(k, v)`. Then read with the query.

# %% [markdown]
# ## What does a decay forget?
#
# After $n$ tokens a memory is $a^n$ of what it was. The tokens until half of it is left are the **half-life**.

# %%
left = predict(
    "l05-left-after-20",
    "A decay of 0.9 keeps nine tenths a token. How much is left of a memory after 20 tokens?",
    ["about 60 %", "about 35 %", "about 12 %", "less than 1 %"],
    headless="about 35 %",
)
left

# %%
share = live.left_after(0.9, 20)
left.reveal(
    min(left.options[:3], key=lambda option: abs(float(option.split()[1]) / 100 - share)),
    f"0.9 to the power of 20 is {share:.3f}; after 100 tokens {live.left_after(0.9, 100):.1e} is left.",
)

# %% [markdown]
# ## Exercise 2: half-life


# %% tags=["exercise"]
def half_life(a):
    """a: a decay between 0 and 1. Returns the number of tokens after which half is left."""
    return ...


checks.half_life(half_life)


# %% tags=["solution"]
def half_life(a):
    """a: a decay between 0 and 1. Returns the number of tokens after which half is left."""
    return math.log(0.5) / math.log(a)


checks.half_life(half_life)

# %% [markdown] tags=["hint"]
# For which $n$ is $a^n = 1/2$? Take logarithms on both sides.

# %% [markdown]
# ## Three forms of the same
#
# Unroll the recurrence and there is no state left, only pairs of tokens, and a mask in shades of grey:
#
# $$o = (Q K^\top \odot D)\, V / \sqrt{K}, \qquad
# D_{ij} = a_{j+1} a_{j+2} \cdots a_i \text{ for } j \le i, \text{ else } 0$$
#
# ## Exercise 3: the mask
#
# Given the logarithms $g_t = \log a_t$ of a sequence, return $D$.


# %% tags=["exercise"]
def decay_matrix(g):
    """g: [T], log decays; returns D [T, T]."""
    return ...


checks.decay_matrix(decay_matrix)


# %% tags=["solution"]
def decay_matrix(g):
    """g: [T], log decays; returns D [T, T]."""
    c = g.cumsum(0)
    return (c[:, None] - c[None, :]).exp().tril()


checks.decay_matrix(decay_matrix)

# %% [markdown] tags=["hint"]
# With `c = g.cumsum(0)` the sum of $g$ over $j+1, \dots, i$ is `c[i] - c[j]`.

# %% [markdown]
# The **recurrent** form takes one step after another: little work, no two steps at once. The **parallel** form does all
# pairs at once: a matrix of $T \times T$. The **chunk** form cuts the sequence into pieces of 64 tokens, does the pairs
# inside a piece at once, and hands a state from piece to piece. All three give the same numbers:

# %%
print(f"largest difference between the forms, over the largest output: {forms.disagreement(512, seed=0):.1e} (float32)")

# %%
by_form = record[["operations", "calls", "largest"]].rename(form="variant")
views.sweep_lines(by_form, "operations", "xy")

# %%
views.sweep_lines(by_form, "calls", "xy")

# %% [markdown]
# These are counts, the same on every machine: operations, and how many calls must follow one another. Double $T$, and
# the parallel form has four times the work, the chunk form twice. The recurrent form has least work of all and cannot
# use a machine that does many things at once. Your own clock on the wall, as far as other programs let it tell:

# %%
for length in (256, 1024) if profile == "quick" else (256, 1024, 4096):
    arguments, said = forms.inputs(length), []
    for name, form in forms.FORMS.items():
        form(*arguments)
        began = time.perf_counter()
        form(*arguments)
        said.append(f"{name} {1e3 * (time.perf_counter() - began):7.1f} ms")
    print(f"T = {length:5}: {', '.join(said)}")

# %% [markdown]
# ## A task that asks what you remember
#
# **Multi-query associative recall** (MQAR, Arora et al. 2023): keys are bound to values, then all keys are asked for.
# Keys are written `k`, values `v`; a caret marks a question, the token after it is the answer.

# %%
task = live.task_of(4, 1)
tokens, asked = task.batch(0, 1)
words = live.spell(tokens[0], task)
print("".join(words))
carets = [("^" if here else "").ljust(len(word)) for word, here in zip(words, asked[0].tolist(), strict=True)]
print("".join(carets))

# %% [markdown]
# All models here have two layers, 32 channels and one head, no MLP, and a convolution over four tokens before queries,
# keys and values, so that a value can meet its key. What mixes positions differs:
#
# | variant | what a layer keeps |
# |---|---|
# | `softmax` | all keys and values |
# | `window` | the last 8 of them |
# | `linear` | $S$ of 8 rows, nothing forgotten |
# | `fixed` | $S$ of 8 rows, one learned decay for all tokens |
# | `scalar` | $S$ of 8 rows, a decay made from the token |
# | `gla` | $S$ of 8 rows, a decay made from the token for every row |
# | `delta` | as `scalar`, but a key's old value is taken out before its new one goes in (gated DeltaNet) |
# | `hybrid` | first layer `softmax`, second layer `gla` |
# | `gla_k32` | `gla` with 32 rows |

# %%
who = predict(
    "l05-who-recalls",
    "16 pairs, a state of 8 rows. Which of these comes closest to softmax attention?",
    ["gla", "linear", "delta", "hybrid"],
    headless="gla",
)
who

# %% [markdown]
# ## Train one
#
# Press **Resume** and watch: for a while nothing happens, then the answers come. The metric *gate score, mean* shows
# where the clocks of a gated model go. Other variants: change the first line and run the cell again.

# %%
variant = "gla"
trainer = panels.train_live(lambda: runs.training(runs.Run(variant, "8 pairs", 7), watched=True), steps=runs.STEPS)
trainer.apply(metric="gate score, mean")
trainer.run_blocking(max_steps=60 if profile == "quick" else None)
trainer

# %% [markdown]
# ## Who recalls?
#
# The finished models, three seeds each, on 512 sequences that no run has seen. Guessing a value is right once in 64.

# %%
views.variant_strip(record.sel(setting="16 pairs"), "accuracy")

# %%
shown = ["softmax", "hybrid", "gla_k32", "linear", "gla", "fixed"]
views.curves(record.sel(setting="16 pairs", variant=shown), "accuracy_curve")

# %%
closest = max(who.options, key=lambda name: lab.final(record, name).mean())
its, best = (lab.final(record, name).mean() for name in (closest, "softmax"))
who.reveal(closest, f"Its mean accuracy is {its:.2f}, softmax's {best:.2f}.")

# %% [markdown]
# Look at *when* the curves rise. A model with a state is still learning when the runs end: a longer run would lift it.
# What such a comparison says, it says of 750 steps.
#
# Now ask the same finished models, trained on 16 pairs, with fewer pairs and with more:

# %%
views.sweep_lines(record.sel(variant=["softmax", "hybrid", "gla_k32", "linear", "gla"]), "accuracy_pairs", "x")

# %% [markdown]
# ## Exercise 4: the gap
#
# `softmax` and `gla` were also trained on 4 and on 8 pairs. From `record.accuracy`, compute accuracy of softmax minus
# accuracy of GLA for the settings `"4 pairs"`, `"8 pairs"`, `"16 pairs"`, one value a seed.

# %% tags=["exercise"]
gap = ...

checks.recall_gap(gap, record)

# %% tags=["solution"]
by_setting = record.accuracy.sel(setting=["4 pairs", "8 pairs", "16 pairs"])
gap = by_setting.sel(variant="softmax") - by_setting.sel(variant="gla")

checks.recall_gap(gap, record)

# %% [markdown] tags=["hint"]
# Select the three settings, then subtract one variant from the other: xarray keeps `seed`.

# %% [markdown]
# ## What a gate is for
#
# In that task nothing may be forgotten before the end. Here is one in which forgetting is right: three **segments**,
# each begun by a boundary `|`, and each binds *the same five keys* to new values. What an earlier segment said of a
# key is wrong now.

# %%
forgetting = predict(
    "l05-segments",
    "Three segments, keys bound anew in each. What does a gate made from the token gain over the best fixed decay?",
    ["a lot: more than 0.2 of accuracy", "something: between 0.05 and 0.2", "next to nothing"],
    headless="a lot: more than 0.2 of accuracy",
)
forgetting

# %%
views.variant_strip(record.sel(setting="3 segments", variant=["gla", "fixed", "linear"]), "accuracy")

# %%
gain = float((lab.final(record, "gla", "3 segments") - lab.final(record, "fixed", "3 segments")).mean())
forgetting.reveal(
    forgetting.options[0 if gain > 0.2 else 1 if gain > 0.05 else 2],
    f"GLA is ahead of the fixed decay by {gain:+.2f} on average over three seeds.",
)

# %% [markdown]
# ## Turn the clock
#
# Trained models, their decays raised to a power: at speed 0 nothing is forgotten, at 1 the clock runs as learned, at 2
# a token forgets what two forgot. Every move runs the model on new sequences. The strip is one sequence, coloured by
# what the gate of the last layer *keeps* at each token; look at the boundaries. The map is that layer's **influence**:
# row $i$ shows with which weight the value of every token $j$ enters what is read at $i$.

# %%
clock = clock_panel(model="gla, trained on 3 segments")
clock

# %% [markdown]
# Try these:
#
# - Speed 0 with three segments. Which segment suffers, which does not, and why?
# - `fixed`: its strip has one colour. Does it find a speed that serves the third segment and the first alike?
# - One segment and a model *trained on 16 pairs*: raise the pairs from 2 to 32. Where does the state run full?
# - `hybrid`: its first layer can look anything up. What is left for its clock to do?
# - Thirty-two pairs in four segments: the panel says what it will not do.
#
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the models were trained.

# %%
scoreboard("l05_the_gate_as_a_clock")

# %% [markdown]
# Said plainly:
#
# - **A gate against the best fixed decay.** Where keys are bound anew, GLA is ahead in every seed, but by 0.18 once and
#   by 0.06 twice, and with three seeds so different the interval of the mean reaches below 0: *not shown*. The panel
#   shows what the gate does all the same: it shuts at the boundary and holds in between. The fixed decay settles on a
#   half-life of about ten tokens, half a segment, and gets away with it more often than one would think.
# - **Where nothing need be forgotten** the gate gains nothing that three seeds can show. There is nothing to gain.
# - **The hybrid** has learnt the task completely in two seeds of three, and in the third it had hardly begun when the
#   steps ran out. So its interval holds 0, too. That is a verdict on 750 steps, not on hybrids.
# - **The delta rule** makes no difference here, because neither model had got far: in a trial run of 900 steps, with
#   another seed, `scalar` reached 0.54, where it has 0.08 after 750. Models with a state arrive late.
# - **Linear time** is claimed of counted operations. On a wall clock and at these lengths, calls count as much.
# ## Take away
#
# - One recurrence, three forms. The chunk form has work linear in $T$ and few steps that must wait for each other.
# - A decay is a half-life. A gate made from the token is a clock that the token sets.
# - A gate can shut at a sign and hold otherwise. A constant must do with one half-life for all; how much that costs
#   depends on how well it fits the task.
# - A state of eight rows recalls four pairs well, and eight badly. A gate does not change that, more rows do, and so
#   does a layer that looks things up.
#
# ## Further reading
#
# - Yang, Wang, Shen, Panda, Kim 2023, *Gated Linear Attention Transformers with Hardware-Efficient Training*, arXiv
#   2312.06635
# - Arora, Eyuboglu et al. 2023, *Zoology: Measuring and Improving Recall in Efficient Language Models*, arXiv
#   2312.04927
# - Yang, Kautz, Hatamizadeh 2024, *Gated Delta Networks: Improving Mamba2 with Delta Rule*, arXiv 2412.06464
# - Sun et al. 2023, *Retentive Network*, arXiv 2307.08621

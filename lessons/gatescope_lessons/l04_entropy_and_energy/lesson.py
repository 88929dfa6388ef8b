# %% [markdown]
# Give a memory half of a picture, and it hands you the other half. The line that does it is a row of softmax
# attention, to the letter. Seen so, a head of a transformer *falls down an energy* towards something it has stored:
# one thing, a few, or the average of everything. Which of them, one number decides. You will turn that number,
# measure how much such a memory holds, look at what the heads of a real model do, and meet what could stand in place
# of softmax.

# %% tags=["parameters"]
profile = "quick"

# %%
import numpy as np
import torch
from gatescope import views
from gatescope.models.smollm2 import load_smollm2
from gatescope.panels.plot import Plot
from gatescope.tasks.text import TEXTS

from gatescope_lessons.l04_entropy_and_energy import checks, lab
from gatescope_lessons.l04_entropy_and_energy.heads import exchanged
from gatescope_lessons.l04_entropy_and_energy.panel import heads_panel, memory_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()

# %% [markdown]
# ## A memory in one line
#
# Stored patterns are the rows of $X$, a state is a vector $\xi$ of the same length. One update of the **Hopfield
# network** of Ramsauer et al. (2020) is
#
# $$\xi' = X^\top \, \mathrm{softmax}(\beta \, X \xi)$$
#
# Every pattern is scored by how well it fits the state, the scores become weights, and the new state is the weighted
# mean of the patterns. Read $\xi$ as a query and $X$ as keys *and* values, and $\beta$ as the scale: that is
# attention. The **inverse temperature** $\beta$ says how much a better fit counts.
#
# Below, a hundred handwritten digits are stored, each as 64 pixels of norm 1 with the mean of all digits removed. The
# memory is shown the upper half of one of them.

# %%
memory = memory_panel(beta=32.0)
memory

# %% [markdown]
# Move $\beta$ down to 8 and to 2, with one update and with 400. Then store a thousand digits; hide everything; ask
# for another digit. Where no $\beta$ helps, the panel says why: another stored digit fits the visible half better.
#
# ## Exercise 1: the update


# %% tags=["exercise"]
def hopfield_update(state, patterns, beta):
    """state: [d]; patterns: [N, d], one a row; returns the new state, [d]."""
    return ...


checks.hopfield_update(hopfield_update)


# %% tags=["solution"]
def hopfield_update(state, patterns, beta):
    """state: [d]; patterns: [N, d], one a row; returns the new state, [d]."""
    weights = (beta * patterns @ state).softmax(-1)
    return weights @ patterns


checks.hopfield_update(hopfield_update)

# %% [markdown] tags=["hint"]
# Three steps: one score a pattern, one weight a pattern, the weighted sum of the patterns.

# %% [markdown] tags=["hint"]
# `patterns @ state` gives the scores. Multiply by `beta` before the softmax, not after.

# %% [markdown]
# ## Why does it come to rest?
#
# Because it runs downhill. There is an **energy**
#
# $$E(\xi) = -\tfrac{1}{\beta} \log \sum_j \exp(\beta \, x_j \cdot \xi) + \tfrac12 \, \xi \cdot \xi + \text{const}$$
#
# that no update ever raises. The first part rewards a state that fits some pattern, the second keeps it from running
# away.
#
# ## Exercise 2: the energy
#
# Write it, without the constant.


# %% tags=["exercise"]
def hopfield_energy(state, patterns, beta):
    """state: [d]; patterns: [N, d]; returns one number."""
    return ...


checks.hopfield_energy(hopfield_energy)


# %% tags=["solution"]
def hopfield_energy(state, patterns, beta):
    """state: [d]; patterns: [N, d]; returns one number."""
    return state @ state / 2 - torch.logsumexp(beta * patterns @ state, -1) / beta


checks.hopfield_energy(hopfield_energy)

# %% [markdown] tags=["hint"]
# `torch.logsumexp` does the first part. Mind the factor in front and the sign.

# %% [markdown]
# Its gradient is $\xi - \xi'$, so where it is zero the update changes nothing: that is a **fixed point**. In the
# record, over all digits, normalisers and $\beta$, the largest rise of the energy in any update was

# %%
print(f"{float(record.energy_rise.max()):.1e} (a rounding of float64)")

# %% [markdown]
# ## Three kinds of fixed point
#
# Let a state run until it rests, and count how many patterns hold 90 % of its weight: $k$. One: it is **a single
# pattern**. More than half of them: **a global average**. In between: a **metastable state**, an average over
# patterns that are alike.

# %%
guess = predict(
    "l04-metastable",
    "100 digits are stored. For how wide a range of beta do most states rest on some of them, neither on one nor on "
    "most?",
    ["for none", "less than a factor of 2", "a factor of 2 to 10", "more than a factor of 10"],
    headless="more than a factor of 10",
)
guess

# %%
views.sweep_lines(lab.kinds(record), "kind_share", "x")

# %%
some = lab.kinds(record).kind_share.sel(variant="metastable").mean("seed")
betas = some.beta.values[some.values > 0.5]
width = float(betas.max() / betas.min()) if len(betas) else 1.0
bands = {2.0: 1, 10.0: 2, np.inf: 3} if len(betas) else {np.inf: 0}
guess.reveal(
    guess.options[next(option for bound, option in bands.items() if width < bound)],
    f"Most states are metastable from beta {betas.min():.3g} to {betas.max():.3g}. Below, everything is averaged; "
    "above, every state is one digit.",
)

# %% [markdown]
# Look at such a state in the panel: at $\beta = 8$ it is a blend of digits that share a shape. It is what the memory
# knows *in general* about this half.
#
# ## One update, and how wrong it is
#
# How much of the way to the fixed point does the first update go? Sharp memories arrive at once; the slow ones are
# those in between.

# %%
views.sweep_lines(lab.swept(record, "left", variants=["softmax", "1.5-entmax", "sparsemax"]), "left", "x")

# %% [markdown]
# What is proved: let $\Delta_i = \min_j x_i \cdot (x_i - x_j)$ be the **separation** of pattern $i$, $M$ the largest
# norm. Then one update leaves at most
#
# $$|\xi' - x_i| \le 2 (N-1) \, M \, \exp\!\big(-\beta (\Delta_i - 2 |\xi - x_i| M)\big)$$
#
# On random patterns in 32 dimensions, queries a little off, we compare every error with this bound.

# %%
worst, exponent = record.log10_error_over_bound, record.error_exponent
print(f"largest error over its bound: 10^{float(worst.max()):.2f}, the worst of {worst.size} seeds")
print(f"log error falls with beta x separation at a slope of {float(exponent.mean()):.2f} (the bound says -1)")

# %% [markdown]
# The digits are another matter: the separation of many is so small that the bound is far above the largest error
# there can be. A bound that holds need not say anything.
#
# ## How much does it hold?
#
# The classical network of plus and minus ones holds about $0.14\,d$ patterns in $d$ dimensions: six in 40. For this
# one the theory says that the number grows *exponentially* with $d$. Random patterns on a sphere of radius
# $\sqrt{d-1}$, $\beta = 1$, half of every query hidden; capacity is where half of the queries no longer find their
# pattern.

# %%
held = predict(
    "l04-capacity",
    "How many random patterns can it hold in 40 dimensions?",
    ["about 6", "about 100", "about 1,000", "more than 10,000"],
    headless="about 100",
)
held

# %%
views.sweep_lines(record, "capacity", "y")

# %%
largest = float(record.capacity.sel(dimension=40).median())
sizes = {25.0: 0, 320.0: 1, 6_000.0: 2, np.inf: 3}
held.reveal(
    held.options[next(option for bound, option in sizes.items() if largest < bound)],
    f"Measured: {largest:,.0f}. On this axis an exponential law is a straight line, a power of d bends over.",
)

# %% [markdown]
# Random patterns are the kindest case: in many dimensions they are nearly orthogonal. Of a hundred digits
# about 95 % come back at best, whatever $\beta$, because some share their upper half with another.
#
# ## Heads as memories
#
# Every row of attention is one such update: keys are the stored patterns. So ask of every head in SmolLM2 how many
# keys hold 90 % of its attention.
#
# ## Exercise 3: count them
#
# Return $k$ for one row of weights: the fewest entries that together hold at least 90 % of its sum.


# %% tags=["exercise"]
def patterns_read(weights):
    """weights: [n], not sorted, none negative; returns a whole number."""
    return ...


checks.patterns_read(patterns_read)


# %% tags=["solution"]
def patterns_read(weights):
    """weights: [n], not sorted, none negative; returns a whole number."""
    reached = weights.sort(descending=True).values.cumsum(-1)
    return int((reached < 0.9 * weights.sum() * (1 - 1e-12)).sum()) + 1


checks.patterns_read(patterns_read)

# %% [markdown] tags=["hint"]
# Sort, largest first; add up; count the partial sums that are still too small; add one.

# %% [markdown]
# Ramsauer et al. sort heads into four classes by $k$ against $n$, the number of keys: **I** more than $n/2$, **II**
# up to $n/2$, **III** up to $n/8$, **IV** up to $n/32$. In BERT the first layers averaged over nearly everything, the
# higher ones over some. Here is a model that was trained to predict the next token; it runs again at every move of
# the slider, which multiplies all logits of all heads.

# %%
pretrained = load_smollm2()
heads = heads_panel(pretrained, TEXTS["letter"].text)
heads

# %% [markdown]
# Turn the factor down: all heads slide into class I, the loss goes up. Turn it up: all fall into class IV, and the
# loss goes up as well. The model was trained for the temperature it has. Over five texts, with a control that moves
# every query as far in a random direction:

# %%
views.sweep_lines(lab.losses(record), "loss", "x")

# %% [markdown]
# Then set *Count* to *all but the first token*. More than half of the heads of class IV leave it: their "single
# pattern" is the **sink** of lesson 01. BERT's analysis did not have to tell them apart; in a causal model a state of
# one pattern may be a retrieval or a place to do nothing.
#
# ## How low can entropy go?
#
# A head's entropy is low only if its logits are large. Take a row of $n$ logits, its mean removed, of norm $\sigma$.
# Zhai et al. (2023) prove, with $b = \exp(-\sigma \sqrt{n/(n-1)})$,
#
# $$H \ge \log(1 + (n-1) b) + \frac{\sigma \sqrt{n (n-1)} \, b}{1 + (n-1) b}$$
#
# and bound $\sigma$ by spectral norms of the weights. How near do heads of SmolLM2 come? (nats; every third layer)

# %%
lab.floors(record).iloc[::3]

# %% [markdown]
# The bound holds in every row, and it is nearly empty: at a norm of 20 it allows almost zero, and the entropy is
# about two. By spectral norms it allows zero everywhere. It forbids collapse only to heads with *small* logits; it
# does not say that large ones collapse. Heads with larger logits do have less entropy, though; the scoreboard says
# how clearly.
#
# ## Entropy collapse
#
# In training, low entropy can be a symptom. The small model of lesson 02, trained with an ordinary learning rate and
# with sixteen times as much; the line is the most focused of its heads.

# %%
Plot(views.curves(lab.training_curves(record, "lowest_entropy"), "lowest_entropy"))

# %%
Plot(views.curves(lab.training_curves(record, "train_trigger_loss"), "train_trigger_loss"))

# %% [markdown]
# At the high rate a head has collapsed within the first steps, before it had learnt anything worth reading. A softmax
# that is nearly 0 or 1 passes nearly no gradient. Some seeds climb halfway back, none recovers in these steps, and what
# must be looked up in the context is not learnt.
#
# ## What else could turn scores into weights?
#
# | | weights | sum |
# |---|---|---|
# | softmax | $e^{s_j} / \sum e^{s}$ | 1, none is 0 |
# | off by one | $e^{s_j} / (1 + \sum e^{s})$ | below 1 |
# | sparsemax | $\max(s_j - \tau, 0)$ | 1, most are 0 |
# | 1.5-entmax | $\max(s_j / 2 - \tau, 0)^2$ | 1, many are 0 |
# | sigmoid | $1 / (1 + n \, e^{-s_j})$ | anything |
#
# A learned sink is off-by-one with a logit of its own. Each is the gradient of a convex function, so each has a
# Hopfield energy that its update lowers.
#
# ## Exercise 4: sparsemax
#
# Find the threshold $\tau$ by sorting, for one row of scores.


# %% tags=["exercise"]
def sparsemax(scores):
    """scores: [n]; returns weights [n] that sum to 1, with zeros."""
    return ...


checks.sparsemax(sparsemax)


# %% tags=["solution"]
def sparsemax(scores):
    """scores: [n]; returns weights [n] that sum to 1, with zeros."""
    z = scores.sort(descending=True).values
    k = torch.arange(1, len(z) + 1)
    tau = (z.cumsum(-1) - 1) / k
    return (scores - tau[(tau < z).sum() - 1]).clamp(min=0)


checks.sparsemax(sparsemax)

# %% [markdown] tags=["hint"]
# If the $k$ largest scores make up the support, $\tau$ is their sum minus 1, divided by $k$.

# %% [markdown] tags=["hint"]
# The right $k$ is the largest for which the $k$-th score still lies above its $\tau$.

# %% [markdown]
# As memories of digits, means over five seeds:

# %%
lab.comparison(record)

# %% [markdown]
# And on the logits of one layer of SmolLM2, which was trained with softmax, now:

# %%
tokens = pretrained.tokenizer.prepare(TEXTS["letter"].text)
exchanged(pretrained.model, tokens, layer=14)

# %% [markdown]
# The sigmoid does not let patterns compete: as a memory it retrieves nothing, and a model must be trained for it. And
# the sink? Off-by-one lets a head give its attention to nobody. Put it into the *finished* model, in every head of
# every layer, means over five texts:

# %%
record[["first_attention_swapped", "nll_swapped"]].mean("text").to_dataframe().round(3)

# %% [markdown]
# A little of the sink goes, most of it stays: logits of the first token were trained to be large, and against them a
# logit of 0 is small. What removes a sink must be there while the model learns, and even then off-by-one may not do
# it (lesson 02).
#
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, repetitions) were written before the record was made.

# %%
scoreboard("l04_entropy_and_energy")

# %% [markdown]
# Said plainly:
#
# - **That the law is exponential and no power of $d$ did not show.** Capacity multiplies by about 3.2 for every four
#   dimensions, in every seed. But a line in $d$ leaves less than one in $\log d$ in four of five seeds only: capacity
#   at one $d$ is one crossing of one memory, and that noise hides the bend over so short a range.
# - **Capacity is measured at one $\beta$, for random patterns.** Real patterns are alike, and what is alike blends. The
#   exponent depends on how much of a query is hidden and on what counts as found.
# - **The bound on entropy is right and tells little here.** It is tight for the worst row of logits of a given norm;
#   rows of a trained model are far from the worst.
# - **Entropy collapsed; the loss did not become rougher.** In this small model a far too high learning rate shows as
#   something that is never learnt, not as oscillation or divergence. The paper speaks of deeper models, whose layers
#   feed each other.
# - **Collapse and failure came together; which caused which, this experiment does not say.**
# - **Classes of heads are shares of $n$.** With 160 tokens class IV ends at five keys; in a long text it would end at
#   hundreds.
#
# ## Take away
#
# - A row of attention is one step down an energy. $\beta$ decides between the average, a few and one.
# - In between lie metastable states: averages over what is alike. Most heads of a real model work there.
# - The memory holds exponentially many *random* patterns, in one update.
# - Low entropy needs large logits; large logits need not mean low entropy.
# - Exact zeros come from a threshold (sparsemax, entmax), not from a lower temperature.
# - A state of a single key can be a retrieval or a sink. Look at which key it is.
#
# ## Further reading
#
# - Ramsauer et al. 2020, *Hopfield Networks is All You Need*, arXiv 2008.02217
# - Zhai et al. 2023, *Stabilizing Transformer Training by Preventing Attention Entropy Collapse*, arXiv 2303.06296
# - Martins and Astudillo 2016, *From Softmax to Sparsemax*, arXiv 1602.02068
# - Peters, Niculae, Martins 2019, *Sparse Sequence-to-Sequence Models*, arXiv 1905.05702
# - Santos, Niculae, McNamee, Martins 2024, *Sparse and Structured Hopfield Networks*, arXiv 2402.13725
# - Ramapuram et al. 2024, *Theory, Analysis, and Best Practices for Sigmoid Self-Attention*, arXiv 2409.04431

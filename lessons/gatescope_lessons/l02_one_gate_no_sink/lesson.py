# %% [markdown]
# Softmax weights sum to one. A head that has nothing to look for must still look somewhere, and in lesson 01 you saw
# where: at the first token, whose value is nearly nothing. Qiu et al. (2025) put one sigmoid after attention, and the
# sink was gone. Here you train the smallest models in which this can be seen, and find out which of six ways to say
# *nothing* work.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch
from gatescope import panels, views

from gatescope_lessons.l02_one_gate_no_sink import checks, lab
from gatescope_lessons.l02_one_gate_no_sink.panel import own_sequence
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)  # the models are so small that a second thread only gets in the way
task = lab.TASK
tokens, bound = lab.held_out(32)

# %% [markdown]
# ## A task in which attention is mostly idle
#
# A sequence starts with `^` (BOS). Most tokens follow from the one before, by a fixed table of probabilities: the
# MLP can learn that table, attention has nothing to add. But three tokens, `A`, `B` and `C`, are **triggers**. In
# each sequence every trigger is bound to a random letter, which follows it every time. To know it you must look
# back to where the trigger stood before: that takes an **induction head** (attention in two layers). On all other
# positions, four out of five, that head should do nothing.

# %%
for row in range(4):
    print(lab.spell(tokens[row]))
    print("".join("^" if here else " " for here in bound[row].tolist()), "\n")

# %% [markdown]
# The carets mark the triggers whose letter the sequence has shown before. Only there can attention lower the loss.
#
# ## Six ways to attend
#
# | variant | what changes | source |
# |---|---|---|
# | `softmax` | nothing | |
# | `g1_element` | $Y \odot \sigma(X W_g + b)$ after attention, a score a channel (G1) | Qiu et al. 2025 |
# | `g1_head` | the same with one score a head | Qiu et al. 2025 |
# | `g2_element` | the gate sits on the values instead (G2) | Qiu et al. 2025 |
# | `learned_sink` | one learned logit a head joins the softmax denominator | gpt-oss, 2025 |
# | `off_by_one` | the denominator gets $+1$: a logit held at 0 | Miller 2023; Kaul et al. 2024 |

# %%
guess = predict(
    "l02-who-keeps-the-sink",
    "All but plain softmax give the head a way to read nothing. Which one will lower attention to BOS least?",
    list(lab.VARIANTS)[1:],
    headless="g2_element",
)
guess

# %% [markdown]
# ## Train one
#
# Press **Resume**, watch the two curves, stop, go on. The curve of the *bound tokens* is the loss at the marked
# triggers: it falls late and at once, when the induction head forms. The lower picture follows a metric of your choice
# while the model learns. A run of 1,000 steps takes about a minute; nothing waits for it, because the finished models
# of five seeds come with this lesson. Other variants and seeds: change the first line and run the cell again.

# %%
variant, seed = "g1_element", 0
trainer = panels.train_live(lambda: lab.training(variant, seed, watched=True), steps=1000)
display(trainer)
trainer.run_blocking(max_steps=100 if profile == "quick" else None)

# %% [markdown]
# ## Compare all six
#
# The finished models read sequences they were never trained on. Below is **first-token attention** of the head
# that has most of it, over positions from the fifth (the first four see so few tokens that BOS gets a lot by
# default). A point is a seed; seeds are paired, so the same seed means the same initial weights and the same
# batches.

# %%
record = lab.published()
largest = record.first_attention.max(("layer", "head"), keep_attrs=True)
views.variant_strip(record.assign(first_attention=largest), "first_attention")

# %%
comparison = panels.compare(record, metric="trigger_loss")
comparison

# %%
least = lab.least_helped(record)
guess.reveal(least, "Its mean first-token attention stays nearest to that of plain softmax.")

# %% [markdown]
# Choose other numbers in the panel. Before you trust a small sink, look at `trigger_loss`: a model that has not
# learnt the task may have no sink for the wrong reason, and a single low loss says little when seeds disagree.
#
# ## Exercise 1: write the gate
#
# `Y` is the output of one attention head, `X` the input of the layer (after its norm). Return the gated output.


# %% tags=["exercise"]
def gated_output(Y, X, W, b):
    """Y: [T, K]; X: [T, D]; W: [D, K]; b: [K]."""
    return ...


checks.gated_output(gated_output)


# %% tags=["solution"]
def gated_output(Y, X, W, b):
    """Y: [T, K]; X: [T, D]; W: [D, K]; b: [K]."""
    return Y * torch.sigmoid(X @ W + b)


checks.gated_output(gated_output)

# %% [markdown] tags=["hint"]
# One score a channel, at every position: a sigmoid of a linear map of `X`.

# %% [markdown] tags=["hint"]
# `X @ W + b` has the shape of `Y`.

# %% [markdown]
# ## Turn the gate by hand
#
# Here is a trained model with its gate. The slider blends the scores: at 1 they are as learned, at 0 they are all 1,
# as if there were no gate, and in between $(1 - a) + a \, g$. Every move runs the model again.

# %%
reopened = predict(
    "l02-open-the-gate",
    "Force the gate of a trained model open (amount 0). Does the sink come back?",
    ["yes, attention to BOS rises to the level of plain softmax", "no, it hardly changes"],
    headless="yes, attention to BOS rises to the level of plain softmax",
)
reopened

# %%
gated = {name: lab.load(name) for name in ("g1_element", "g1_head", "g2_element")}
blend = panels.gate_blend(gated, tokens)
blend

# %% [markdown]
# The first layer's attention is computed from the embeddings, before any gate acts: its row of the map cannot move.
# The second layer's moves a little, because its input went through the first gate. The loss moves much more: the rest
# of the network has come to rely on the closed gate. Forced open, the heads speak when they should be silent.

# %%
rise = lab.rise_when_opened(gated["g1_element"], tokens)
reopened.reveal(
    reopened.options[0 if rise > 0.1 else 1],
    f"Attention to BOS in the second layer changes by {rise:+.3f}. A sink is not what softmax does by itself: it is "
    "something a model learns, keys, short first value and all. One that grew up with a gate never learnt it.",
)

# %% [markdown]
# Look at the histogram as well. The gate started at a score of .88 everywhere. Where did it go, in which layer? And
# choose `g2_element`: there the sink is large at both ends of the slider.
#
# ## Your own sequence
#
# Type letters: `A` to `C` are triggers, small letters and `.` `,` `;` are ordinary tokens; `^` is put in
# front. The line below is
# a sequence of the task; change the letter after a trigger that came before, and see which models are surprised.

# %%
own = own_sequence(lab.spell(tokens[1]))
own

# %% [markdown]
# ## Exercise 2: softmax-off-by-one is a gate, too
#
# Off-by-one attention weighs key $j$ with $\exp(s_j) / (1 + \sum_k \exp(s_k))$. You are given the output of
# *ordinary* attention and its LSE ($\log \sum_k \exp(s_k)$ of each row). Return the off-by-one output. No scores
# needed.


# %% tags=["exercise"]
def off_by_one(out, lse):
    """out: [T, K], ordinary softmax attention; lse: [T]."""
    return ...


checks.off_by_one(off_by_one)


# %% tags=["solution"]
def off_by_one(out, lse):
    """out: [T, K], ordinary softmax attention; lse: [T]."""
    return out * torch.sigmoid(lse)[:, None]


checks.off_by_one(off_by_one)

# %% [markdown] tags=["hint"]
# With $D = \sum_k \exp(s_k)$: one divides by $D$, the other by $1 + D$.

# %% [markdown] tags=["hint"]
# The quotient is $D / (1 + D)$ with $D = \exp(\mathrm{LSE})$. That is a function you know.

# %% [markdown]
# A gate, then, though one that can only close when *all* scores of a row are far below zero. Softmax never minds where
# its scores lie; here training has to move them down there. The strip above shows how well that went, seed by seed. The
# learned sink can raise its own logit instead: compare the spread of the two.
#
# ## Exercise 3: how much smaller is the sink?
#
# From `record`, compute first-token attention of `g1_element` divided by that of `softmax`, for the largest head, one
# value a seed.

# %% tags=["exercise"]
ratio = ...

checks.sink_ratio(ratio, record)

# %% tags=["solution"]
first = record.first_attention.max(("layer", "head"))
ratio = first.sel(variant="g1_element") / first.sel(variant="softmax")

checks.sink_ratio(ratio, record)

# %% [markdown] tags=["hint"]
# Reduce `layer` and `head` with `.max(("layer", "head"))`; keep `seed`. `.sel(variant="softmax")` selects a variant.

# %% [markdown]
# ## Exercise 4: be the judge
#
# The claim: *this variant lowers first-token attention to less than half.* It counts as `"shown"` when every seed
# has a ratio below 1, the mean ratio is below 0.5, and its 95 % interval excludes 1. It is `"contradicted"` when
# every seed is above 1 and the interval excludes 1. Everything else is `"not shown at this scale"`. Judge two
# variants.

# %% tags=["exercise"]
my_verdicts = {"g1_element": ..., "off_by_one": ...}

checks.verdicts(my_verdicts, record)

# %% tags=["solution"]
my_verdicts = {name: lab.judged(record, name).outcome for name in ("g1_element", "off_by_one")}

checks.verdicts(my_verdicts, record)

# %% [markdown] tags=["hint"]
# `lab.first(record, name) / lab.first(record, "softmax")` has one ratio a seed. Look at the largest one, then the
# mean.

# %% [markdown]
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, number of seeds) were written before the models were trained.

# %%
scoreboard("l02_one_gate_no_sink")

# %% [markdown]
# Three things to notice, said plainly.
#
# - **The loss hardly moves.** All six variants come within a few thousandths of a nat of each other, because all of
#   them learn the task. The paper's gain in perplexity is not something that this task can show.
# - **The massive-activation claim is contradicted here, and that means little.** With the gate, the ratio of the
#   largest to the median activation is *larger*. But it is about 13, where lesson 01 saw more than 10,000: neither
#   variant has anything that deserves the name. What does not form cannot be prevented.
# - **The value gate makes the sink stronger.** It can shut the first value off, so that attending to it costs nothing
#   at all, and attention goes there more than before. In the paper the sink shrinks somewhat; what both agree on is
#   that the gate after attention does far more.
#
# ## Take away
#
# - A sink is a workaround: the head needs a way to say nothing, and softmax has none.
# - A gate after attention gives it one that depends on the query. The sink shrinks, and the first value need not be
#   small any more.
# - A gate on the values cannot know what the query wants. It gives the sink a better drain instead of removing it.
# - An extra logit in the denominator, learned or held at 0, also lets a head read nothing.
# - Several seeds, a paired ratio, an interval and terms written beforehand: that is what a claim needs.
#
# ## Further reading
#
# - Qiu et al. 2025, *Gated Attention for Large Language Models*, arXiv 2505.06708
# - Kaul, Ma, Elezi, Deng 2024, *From Attention to Activation*, arXiv 2410.17174
# - Bietti et al. 2023, *Birth of a Transformer: A Memory Viewpoint*, arXiv 2306.00802
# - Guo et al. 2024, *Active-Dormant Attention Heads*, arXiv 2410.13835

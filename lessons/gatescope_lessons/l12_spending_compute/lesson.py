# %% [markdown]
# Most inputs are easy. A network that spends as much on a clear 1 as on a smudge that may be a 4 or a 9 wastes most of
# its work. Two papers decide input by input. Regol, Chataoui and Coates (2023, **JEI-DNN**) let a network be left
# early, by gates that are trained *together* with the exits they lead to. Wójcik et al. (2023, **ACM**) cut an MLP into
# learners, of which every token runs as many as a gate says. Both claim more for the same compute, and both are easy to
# compare unfairly. You will fix the budget first, and then look.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch
from gatescope import views

from gatescope_lessons.l12_spending_compute import checks, lab, live, panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()
reader = live.Reader(steps=(600, 200, 200))

# %% [markdown]
# ## Four exits
#
# A network of four hidden layers, 8, 16, 64 and 192 wide, has learnt to read noisy digits, and is frozen. After each of
# the first three layers stands an **inference module**: one linear map to ten logits. Whoever leaves there saves the
# layers behind it. Cost is counted in operations, $2mnk$ for a matrix product, all exits that were passed by included.

# %%
exits = record[["accuracy_at", "cost_at"]].mean("seed").to_dataframe()
exits.index = [f"exit {place + 1}" for place in exits.index]
exits.rename(columns={"accuracy_at": "accuracy when all leave here", "cost_at": "cost"}).round(3)

# %% [markdown]
# The last layer costs more than five times all the rest, and adds less than a point. The usual way to use that: leave
# at the first exit whose largest probability is above a threshold. Move the budget; the threshold is then set as high
# as it allows, and all digits are decided anew. Compare who decides **at the same budget**: that is the only comparison
# that counts.

# %%
bias = predict(
    "l12-leaving-bias",
    "Digits leave early when confidence is above a threshold. How true is the confidence of those that left?",
    [
        "as true as that of all digits at that exit",
        "too high, by more than that of all digits at that exit",
        "too low, by more than that of all digits at that exit",
    ],
    headless="too high, by more than that of all digits at that exit",
)
bias

# %%
leave = panel.leave_panel(reader, budget=0.15)
leave

# %% [markdown]
# Go to the ends. At 2 % no exit is cheap enough and all leave at the first. At 100 % nobody needs to leave. Look at the
# images: those that stay to the last exit are the ones you would look at twice. Then change the price $\lambda$: that
# trains gates, in a few seconds.
#
# ## How sure, how right
#
# A model is **calibrated** when of those predictions that it makes with confidence 0.8, eight in ten are right. The
# **expected calibration error** sorts predictions into bins by confidence and adds up how far confidence and accuracy
# lie apart:
#
# $$\text{ECE} = \sum_b \frac{n_b}{n} \, \big| \text{mean of correct in } b - \text{mean of confidence in } b \big|$$
#
# ## Exercise 1: calibration error


# %% tags=["exercise"]
def calibration_error(confidence, correct, bins):
    """confidence: [n] in (0, 1); correct: [n] of True and False; bins of equal width, each without its lower end."""
    return ...


checks.calibration_error(calibration_error)


# %% tags=["solution"]
def calibration_error(confidence, correct, bins):
    """confidence: [n] in (0, 1); correct: [n] of True and False; bins of equal width, each without its lower end."""
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    apart = torch.zeros(bins, dtype=confidence.dtype)
    apart.index_add_(0, place, correct.to(confidence) - confidence)
    return apart.abs().sum() / len(confidence)


checks.calibration_error(calibration_error)

# %% [markdown] tags=["hint"]
# $n_b$ times the difference of two means is the sum of (correct - confidence) over the bin.

# %%
own = lab.exits(record, "early_bias", "confidence")
place = 0 if abs(own.mean()) < 0.001 else 1 if own.mean() > 0 else 2
bias.reveal(
    bias.options[place], f"Mean over three prices, seed by seed: {', '.join(f'{value:+.3f}' for value in own)}."
)

# %% [markdown]
# Two errors can meet here. *All* confidences may be too high, which a temperature mends. And those that leave were
# *chosen* for being confident: of two digits that are equally hard the one whose confidence happens to be too high
# leaves. That second error is what JEI-DNN's abstract calls a positive bias. Here three seeds disagree about its sign.
#
# ## Gates that learn
#
# A gate is a linear map of four numbers: the largest probability, the entropy, the margin, and the entropy of $p^2$.
# With $g_l$ its sigmoid, JEI-DNN takes as the probability of leaving at exit $l$
#
# $$P_l = \max\big(0, \min(g_l, \; 1 - \textstyle\sum_{m<l} g_m)\big)$$
#
# and the last exit takes what is left.
#
# ## Exercise 2: who leaves where


# %% tags=["exercise"]
def exit_probabilities(g):
    """g: [B, X] in (0, 1), one gate an exit but the last; returns [B, X + 1]."""
    return ...


checks.exit_probabilities_of(exit_probabilities)


# %% tags=["solution"]
def exit_probabilities(g):
    """g: [B, X] in (0, 1), one gate an exit but the last; returns [B, X + 1]."""
    before = g.cumsum(1) - g
    p = torch.minimum(g, 1 - before).clamp(min=0)
    return torch.cat([p, 1 - p.sum(1, keepdim=True)], dim=1)


checks.exit_probabilities_of(exit_probabilities)

# %% [markdown] tags=["hint"]
# `g.cumsum(1) - g` is the sum over the exits before.

# %% [markdown]
# Two losses train them, side by side. Each input has an exit where it *should* have left, the one of least
# $\text{loss}_l + \lambda c_l$, and its gate and those behind it learn to let it out. And each inference module learns
# from an input with the weight $P_l$ that it will be used for it. That is the **joint** part: without it every module
# learns from every input, also from those that will never come to it.

# %%
joint = predict(
    "l12-joint",
    "Joint gates against thresholded confidence at the same cost, mean over seeds and prices. Joint gates are",
    [
        "more accurate, by half a point or more, and better calibrated",
        "about as accurate, and better calibrated",
        "about as accurate, and no better calibrated",
        "less accurate, by half a point or more",
    ],
    headless="more accurate, by half a point or more, and better calibrated",
)
joint

# %%
views.sweep_lines(lab.of_exits(record), "exit_accuracy", log="x")

# %%
views.sweep_lines(lab.of_exits(record), "exit_ece", log="x")

# %%
gain = lab.METRICS["accuracy_joint_minus_confidence"](record).mean()
sharper = lab.METRICS["ece_joint_minus_confidence"](record).mean() < 0
if gain <= -0.005:
    answer = joint.options[3]
elif gain >= 0.005 and sharper:
    answer = joint.options[0]
else:
    answer = joint.options[1] if sharper else joint.options[2]
joint.reveal(answer, f"Accuracy {gain:+.3f}.")

# %%
lab.exit_table(record)

# %% [markdown]
# Read the last row. **Cooled** confidence is the old threshold with one temperature an exit, fitted on validation
# images: four numbers. A paper that compares calibration without it compares with a baseline that nobody has to use.
#
# ## Learners
#
# Now token by token. A byte model of two blocks was trained on Python's help pages; here it reads texts that it has not
# seen. Its MLPs of 256 channels are replaced by **adaptive computation modules**: 16 learners of 16 channels, and a
# token that runs $c$ of them gets
#
# $$y = \sum_{n \le c} s_n(x), \qquad s_n(x) = \text{GELU}(x W^{up}_n) W^{down}_n$$
#
# ## Exercise 3: as many as it takes


# %% tags=["exercise"]
def some_learners(outputs, counts):
    """outputs: [T, N, D], what every learner gives; counts: [T], from 0 to N; returns [T, D]."""
    return ...


checks.some_learners(some_learners)


# %% tags=["solution"]
def some_learners(outputs, counts):
    """outputs: [T, N, D], what every learner gives; counts: [T], from 0 to N; returns [T, D]."""
    runs = torch.arange(outputs.shape[1]) < counts[:, None]
    return (outputs * runs[..., None]).sum(1)


checks.some_learners(some_learners)

# %% [markdown] tags=["hint"]
# Try it with a token that wants all learners: does the last one run?

# %% [markdown]
# Three phases make such a model. **Distillation**, module by module: every partial sum shall come as near to the dense
# MLP as it can. **Gates** learn the smallest $c$ after which one more learner takes less than a sixth off the error.
# Then the **whole model** learns its task, while a loss holds the share of learners that run to a budget. That happens
# now, with fewer steps than the record has.

# %%
adaptive = live.Adaptive()
spend = panel.spend_panel(adaptive, budget=0.125)
spend

# %% [markdown]
# Moving the budget tilts the gates, the same for all tokens, until it is kept: no training. *Same for all* and
# *shuffled* run as many learners; the first gives each token the same number, the second deals the gates' choices out
# by lot. This model was tuned with its gates, which favours them here; in the record below each allocation is tuned for
# itself. At 0 the MLPs are gone. Which bytes get many learners? Is it those that are hard to predict?

# %%
adapted = predict(
    "l12-token-wise",
    "Both tuned as long from the same learners: which has the lower loss at the same share of learners?",
    ["gates that decide token by token", "the same number for all", "no difference to speak of: below 0.005 nats"],
    headless="gates that decide token by token",
)
adapted

# %%
views.sweep_lines(lab.excess(record), "excess", log="x")

# %%
difference = lab.METRICS["nll_same_minus_gate"](record).mean()
place = 2 if abs(difference) < 0.005 else 0 if difference > 0 else 1
adapted.reveal(adapted.options[place], f"Same for all minus gates: {difference:+.4f} nats a byte.")

# %%
lab.needed_table(record)

# %% [markdown]
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the record was made.

# %%
scoreboard("l12_spending_compute")

# %% [markdown]
# Said plainly:
#
# - **Joint gates** came out ahead of thresholded confidence in every seed, by less than half a point: with three seeds
#   that is a hint and not shown. The same gates beside modules that learn alike are level with them. So what little
#   there is comes from gates that weigh four numbers exit by exit, hardly from training jointly.
# - **Calibration** is better in two seeds of three, from 0.042 to 0.025 on average. Four temperatures do as much.
# - **Few tokens need the full width**: contradicted, by our measure. To come within a tenth of what no learner leaves,
#   a quarter of the bytes in the first block and almost half in the second want all 16 learners. Yet a quarter of the
#   learners lose only 0.02 nats in the end: what the model needs is less than what the MLP says.
# - **Token by token** is no better here than the same number for all, tuned as long; it is a little worse in every
#   seed, and its gates cost 3 % of the MLP besides. But the gates do know something: dealt out by lot, their choices
#   lose 0.004 to 0.027 nats. Fixed learners know what they are trained for, and in 150 steps that is worth more.
# - **The budget** is kept, within two points.
# - **Difficulty** is contradicted if it means loss: bytes that are hard to predict get *fewer* learners. Uncertain is
#   not the same as unfinished: more computing does not make a name easier to guess.
#
# The papers measured networks thousands of times larger on images and speech. What carries over is how to ask.
#
# ## Take away
#
# - Compare at the same cost, and count what was passed by. A better accuracy at another cost says nothing.
# - Whoever is chosen by confidence may be surer than right: measure it on those that left, not on all.
# - A temperature an exit is four numbers. Put it beside every claim about calibration.
# - Against gates stand two controls: the same number for all, tuned as long, and the gates' own choices dealt out by
#   lot.
# - A budget is a promise about an average. Ask what it is an average over.
#
# ## Further reading
#
# - Regol, Chataoui and Coates 2023, *Jointly-Learned Exit and Inference for a Dynamic Neural Network*, arXiv 2310.09163
# - Wójcik, Devoto, Pustelnik, Minervini and Scardapane 2023, *Adaptive Computation Modules*, arXiv 2312.10193
# - Guo, Pleiss, Sun and Weinberger 2017, *On Calibration of Modern Neural Networks*, arXiv 1706.04599
# - Teerapittayanon, McDanel and Kung 2016, *BranchyNet*, arXiv 1709.01686

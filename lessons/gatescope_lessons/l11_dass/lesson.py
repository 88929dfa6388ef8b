# %% [markdown]
# Pruning takes weights away from a network that somebody drew. Would one draw another network, knowing that nineteen
# weights in twenty will go? **DASS** (Mousavi et al. 2022) lets a gradient draw it: a differentiable architecture
# search in which every layer already reads only its largest weights. You will build the three parts of such a search,
# watch one, and hold what it finds to the baselines that a search owes.

# %% tags=["parameters"]
profile = "quick"

# %%
import numpy as np
import pandas as pd
import torch
from gatescope import views
from gatescope.search import OPERATIONS

from gatescope_lessons.l11_dass import arms, checks, lab, panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()

# %% [markdown]
# ## A cell, and what could be in it
#
# The network reads digits of 8 x 8: a **stem** (a 3 x 3 convolution to 16 channels), two **cells**, a linear map. Both
# cells have the same edges. Node 0 is the input of a cell, nodes 1 and 2 add up what their edges bring, and the cell
# gives their mean. Three edges, and for each of them these candidates:

# %%
pd.DataFrame(
    [(row.weights(16), row.shows) for row in OPERATIONS.values()],
    index=pd.Index(OPERATIONS, name="operation"),
    columns=["weights, 16 channels", "what it gives"],
)

# %% [markdown]
# "zero" is no edge at all. It takes part while searching and is never chosen.
#
# ## Exercise 1: all of them at once
#
# DARTS (Liu et al. 2018) does not try one cell after another. In its **supernet** an edge is all candidates $f_o$ at
# once, weighed by numbers $\alpha_o$ that learn like weights do:
#
# $$\text{edge}(x) = \sum_o p_o f_o(x), \qquad p = \operatorname{softmax}(\alpha)$$


# %% tags=["exercise"]
def mixture(outputs, alpha):
    """outputs of all candidates: [operation, image, channel, pixel]; alpha: [operation]."""
    return ...


checks.mixture(mixture)


# %% tags=["solution"]
def mixture(outputs, alpha):
    """outputs of all candidates: [operation, image, channel, pixel]; alpha: [operation]."""
    return torch.einsum("o,o...->...", alpha.softmax(0), outputs)


checks.mixture(mixture)

# %% [markdown] tags=["hint"]
# The weights of a mixture sum to 1.

# %% [markdown]
# ## Watch a search
#
# A step of the search is two. $\alpha$ learns from **validation** images with the weights $w$ held, then $w$ learns
# from **training** images with $\alpha$ held; were it one set of images, $\alpha$ would choose what learns by heart.
#
# $$\min_\alpha L_\text{val}\big(w^*(\alpha) \odot m,\, \alpha\big), \qquad
# w^*(\alpha) = \arg\min_w L_\text{train}(w \odot m,\, \alpha)$$
#
# $m$ is what DASS adds. `SparseConv` and `SparseLinear` read the largest $|w|$ of their layer and 0 for the others,
# anew in every pass, and pass the gradient straight through. At 0 % this is the dense search, to the bit. Press
# **Start** or **Resume**, look at one edge after another, and move the sparsity *while it searches*.

# %%
searching = panel.search_panel(steps=80, edge="1→2")
searching.run_blocking(max_steps=15 if profile == "quick" else None)
searching

# %% [markdown]
# ## Exercise 2: what an operation is paid for
#
# The loss sends a gradient $g$ back to the output of the edge. What does $\alpha$ get? Write the gradient of the loss
# by every $\alpha_o$ from what the candidates gave. (The panel above does this by autograd.)


# %% tags=["exercise"]
def alpha_gradient(outputs, alpha, upstream):
    """outputs and alpha as above; upstream is g, in the shape of one output."""
    return ...


checks.alpha_gradient(alpha_gradient)


# %% tags=["solution"]
def alpha_gradient(outputs, alpha, upstream):
    """outputs and alpha as above; upstream is g, in the shape of one output."""
    p = alpha.softmax(0)
    score = (upstream * outputs).flatten(1).sum(1)
    return p * (score - (p * score).sum())


checks.alpha_gradient(alpha_gradient)

# %% [markdown] tags=["hint"]
# First the gradient by $p_o$: how much of $g$ lies along $f_o(x)$. Then through the softmax.

# %% [markdown]
# ## Exercise 3: from a supernet to a cell
#
# At the end every edge takes its best operation other than "zero", and every node keeps the two edges into it whose
# best operation weighs most. Return `{(source, node): operation}`; the first of `operations` is "zero".


# %% tags=["exercise"]
def derive_cell(weights, edges, operations, keep):
    """weights: [edge, operation], numpy; edges: (source, node) of a row; operations: names."""
    return ...


checks.derive_cell(derive_cell)


# %% tags=["solution"]
def derive_cell(weights, edges, operations, keep):
    """weights: [edge, operation], numpy; edges: (source, node) of a row; operations: names."""
    best = [1 + int(np.argmax(row[1:])) for row in weights]
    cell = {}
    for node in {to for _, to in edges}:
        into = [row for row, (_, to) in enumerate(edges) if to == node]
        into.sort(key=lambda row: -weights[row, best[row]])
        cell |= {edges[row]: operations[best[row]] for row in into[:keep]}
    return cell


checks.derive_cell(derive_cell)

# %% [markdown] tags=["hint"]
# Go node by node: sort the rows of its edges by their largest weight, column 0 left out.

# %% [markdown]
# ## Slide the sparsity, search again
#
# Every move of this slider searches for 30 steps with so many weights read as 0, derives the cell, trains it from
# scratch, cuts so many weights in every layer but the stem, and tunes what is left. The same is done for what a dense
# search found. It takes a few seconds the first time.

# %%
sparse = panel.sparse_panel(sparsity=0.95)
sparse

# %% [markdown]
# Try 0 % and 99.9 %, then one sparsity with several seeds. How often is the sparse search ahead, and by how many
# weights? Cut the same *share* of two cells, and the cell that had more weights has more weights left.
#
# ## Five ways to a cell, five seeds
#
# | arm | how its cell came about |
# |---|---|
# | sparse search | 80 steps of search, the last 60 with weights read sparse |
# | dense search | the same with all weights read |
# | random search | the best on validation of 4 random cells, each trained and pruned for a quarter of the steps |
# | all separable 3x3 | made by hand, after MobileNet |
# | all conv 3x3 | made by hand |
#
# All cells are then trained for 150 steps from the same initial weights of a seed, pruned by magnitude in every layer
# but the stem, and tuned for 75 steps with the mask held.

# %%
ahead = predict(
    "l11-best-arm",
    "With 2 % of the weights left in every layer: whose cell is best, over five seeds?",
    list(arms.ARMS),
    headless="sparse search",
)
ahead

# %%
views.sweep_lines(record[["accuracy"]], "accuracy", log="x")

# %%
mean = record.accuracy.sel(kept=lab.HARD).mean("seed")
best = str(mean.variant.values[int(mean.values.argmax())])
ahead.reveal(best, f"It reads {float(mean.max()):.1%} of the held-out digits right.")

# %%
views.variant_strip(record[["accuracy"]].sel(kept=lab.HARD), "accuracy")

# %% [markdown]
# ## What was found, and how large it is

# %%
lab.chosen_table(record, "sparse search", lab.HARD)

# %%
lab.chosen_table(record, "dense search", lab.HARD)

# %% [markdown]
# Now give every cell the same *number* of weights in place of the same share: 300 beyond the stem, spread over its
# layers alike.

# %%
fair = predict(
    "l11-equal-number",
    "With 300 weights each: whose cell is best, over five seeds?",
    list(arms.ARMS),
    headless="sparse search",
)
fair

# %%
views.variant_strip(record[["accuracy_equal"]], "accuracy_equal")

# %%
equal = record.accuracy_equal.mean("seed")
most = str(equal.variant.values[int(equal.values.argmax())])
fair.reveal(most, f"It reads {float(equal.max()):.1%}, the sparse search's {float(equal[0]):.1%}.")

# %%
lab.arms_table(record)

# %% [markdown]
# ## What the paper says, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the record was made.

# %%
scoreboard("l11_dass")

# %% [markdown]
# Said plainly:
#
# - **Sparse search over dense search** is not shown. It is ahead in four seeds of five, by 2 to 24 points, and behind
#   by 16 in the fifth. Two runs of the same search differ as much.
# - **What the sparse search finds** is size. In every seed it takes convolutions of 9 x 16 x 16 weights on all three
#   edges, so that 2 % leave 327: as many as in the cell made by hand of nothing but conv 3x3, which is as accurate. The
#   dense search took a separable convolution for one edge in two seeds, and these are two of its three worst.
# - **Another architecture** is not shown: plain or dilated changes from seed to seed as much as from dense to sparse.
# - **Over separable convolutions** is shown, by 45 points. But that cell has a sixth of the weights to begin with, and
#   2 % leave it 99 in all. With 300 weights each the lead is 25 points.
# - **Over random search** is not shown; with 300 weights each it is turned around in four seeds of five. The small
#   cells that chance found, one or two convolutions beside skips and averages, read 70 % on average, the large ones one
#   half. A search that cuts *shares* is paid for size, and one that means to save weights should count them.
# - **Pruning hurts** is shown: cells that read 98 % with all their weights read about half with 2 % of them, and the
#   separable one guesses.
#
# This is a small stage. The space has 216 cells, images are 8 x 8, a search has 80 steps, and masks follow magnitudes
# where the authors' code learns a score for every weight. The paper's networks are larger by far: its code builds 12 to
# 20 cells of 30 to 108 channels. What carries over is not the verdict but the controls.
#
# ## Take away
#
# - A supernet is a softmax mixture; its weights learn from validation data, and an operation is paid for what it does
#   better than the mixture.
# - Reading weights sparse while searching changes what operations are paid for. Whether that finds a better cell is a
#   question for seeds, not for one picture.
# - Two pruned architectures can be compared at an equal share or at an equal number of weights. Say which.
# - A search owes three baselines: the search without the new part, chance at the same budget, and a cell made by hand.
#
# ## Further reading
#
# - Mousavi, Loni, Alibeigi and Daneshtalab 2022, *DASS: Differentiable Architecture Search for Sparse Neural Networks*,
#   arXiv 2207.06968
# - Liu, Simonyan and Yang 2018, *DARTS: Differentiable Architecture Search*, arXiv 1806.09055
# - Li and Talwalkar 2019, *Random Search and Reproducibility for Neural Architecture Search*, arXiv 1902.07638
# - Zela et al. 2019, *Understanding and Robustifying Differentiable Architecture Search*, arXiv 1909.09656

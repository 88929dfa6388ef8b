# %% [markdown]
# Train a network, throw away nineteen weights in twenty, and it still reads digits. Why then train so many? Frankle and
# Carbin (2018) found that the few that stay could have been trained alone, if one had known *which*, and had kept the
# values they *started* from. Zhou et al. (2021) learn which while they train, in a pattern that hardware likes. And Li
# et al. (2022) saw that even a dense network uses few of its neurons at a time. You will prune, rewind and watch, and
# meet a few surprises that no abstract mentions.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch
from gatescope import panels, views

from gatescope_lessons.l10_tickets_and_nm import checks, lab, live, panel
from gatescope_lessons.l10_tickets_and_nm.lazy import LEARNERS
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()
networks = live.trained_networks()

# %% [markdown]
# ## Cut, and look
#
# Three networks, LeNet-300-100 on digits of 8 x 8, were trained while you read this: 50,200 weights each. A **mask**
# says which of them stay. By **magnitude** the smallest $|w|$ go; the control cuts as many in every layer **at
# random**. The slider cuts the trained networks anew at every move. Nothing is trained afterwards.

# %%
cut = predict(
    "l10-cut-without-training",
    "Cut 60 % of a trained network, and do not train it again. It was 0.98 accurate. And now?",
    [
        "above 0.9 by magnitude, and at random as well",
        "above 0.9 by magnitude only",
        "below 0.9 either way",
    ],
    headless="above 0.9 by magnitude only",
)
cut

# %%
pruning = panel.prune_panel(networks, sparsity=0.6)
pruning

# %%
strip = pruning.frame("pruned_accuracy").drop_duplicates("variant").set_index("variant")["mean"]
measured = {name: float(strip[name]) > 0.9 for name in ("smallest cut", "random cut")}
if not measured["smallest cut"]:
    answer = cut.options[2]
else:
    answer = cut.options[0] if measured["random cut"] else cut.options[1]
cut.reveal(answer, "Move the slider to see from where on the smallest are missed.")

# %% [markdown]
# Go to the ends. At 0 % nothing is cut; at 99.9 % some fifty weights are left. Then rank *the smallest of all layers*
# together: which layer pays? The output layer has a thousand weights only, and they are large.
#
# ## Exercise 1: prune by magnitude
#
# Return the mask of one layer: True where a weight stays. `share` of all its weights are cut, rounded.


# %% tags=["exercise"]
def keep_largest(w, share):
    """w: [F, D]; share in [0, 1); returns a mask [F, D]."""
    return ...


checks.keep_largest(keep_largest)


# %% tags=["solution"]
def keep_largest(w, share):
    """w: [F, D]; share in [0, 1); returns a mask [F, D]."""
    count = w.numel() - round(share * w.numel())
    mask = torch.zeros(w.numel(), dtype=torch.bool)
    mask[w.abs().flatten().topk(count).indices] = True
    return mask.view_as(w)


checks.keep_largest(keep_largest)

# %% [markdown] tags=["hint"]
# Magnitude is $|w|$. How many stay? Find them with `topk` of the flattened layer.

# %% [markdown]
# ## Tickets
#
# Pruning a trained network is old. The new question was whether the small network could have been trained *from the
# beginning*. **Iterative magnitude pruning with rewinding** goes:
#
# 1. Draw initial weights $w_0$, train them.
# 2. Cut the smallest fifth of those that are left (a tenth in the output layer).
# 3. Set what stays back to its value in $w_0$. That is the **ticket**. Train it, and go on with 2.
#
# Two controls take it apart. **New weights**: the ticket's places, freshly drawn values. **Random places**: the
# ticket's initial values with the mask shuffled within every layer.
#
# ## Exercise 2: the next ticket
#
# Write one round: from the initial weights, the trained ones and the present mask to the next mask and to the weights
# that are trained next.


# %% tags=["exercise"]
def next_ticket(initial, trained, mask, share):
    """All [F, D]; cut `share` of what `mask` keeps; returns (new mask, weights to train)."""
    return ...


checks.next_ticket(next_ticket)


# %% tags=["solution"]
def next_ticket(initial, trained, mask, share):
    """All [F, D]; cut `share` of what `mask` keeps; returns (new mask, weights to train)."""
    alive = int(mask.sum())
    scores = trained.abs().masked_fill(~mask, -torch.inf).flatten()
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[scores.topk(alive - round(share * alive)).indices] = True
    new = new.view_as(mask)
    return new, initial * new


checks.next_ticket(next_ticket)

# %% [markdown] tags=["hint"]
# The trained weights are ranked, the initial ones are returned.

# %% [markdown]
# ## A short search, now
#
# Four rounds of 100 steps, each cutting half: seven trainings in a few seconds. Change the seed or the rounds and run
# the cell again. With eight rounds hardly anything is left.

# %%
found = live.search_now(seed=0, rounds=4)
views.curves(found, "accuracy")

# %% [markdown]
# ## Five seeds, sixteen rounds
#
# The record that comes with this lesson has five searches of sixteen rounds. In every round another order of the data
# was used, so that no ticket owes its luck to the order it was found with.

# %%
speed = predict(
    "l10-ticket-speed",
    "At 3 % of the weights, where is the lead of the ticket over both controls largest?",
    ["after 50 steps", "after 400 steps, at the end"],
    headless="after 50 steps",
)
speed

# %%
tickets = record[["ticket_accuracy"]].rename(start="variant")
views.sweep_lines(tickets.sel(step=400), "ticket_accuracy", log="x")

# %%
views.curves(tickets.sel(kept=lab.THIRTIETH).dropna("step"), "ticket_accuracy")

# %%
lead = {step: lab.gain(record, lab.THIRTIETH, "new weights", step=step).mean() for step in (50, 400)}
speed.reveal(
    speed.options[0] if lead[50] > lead[400] else speed.options[1],
    f"Over new weights it leads by {lead[50]:.2f} after 50 steps and by {lead[400]:.2f} after 400.",
)

# %% [markdown]
# Look at step 0 of that picture. Nothing has been trained, and the ticket reads nine digits in ten. Training moved some
# weights towards zero, and cutting those is a step of training too: the rest, with their initial values, is a network
# that works. Zhou, Lan, Liu and Yosinski (2019) call such masks *supermasks*. The control with new weights has the very
# same mask and can do nothing: places are worth that much only together with the values they were found with.

# %%
views.sweep_lines(tickets.sel(step=0), "ticket_accuracy", log="x")

# %% [markdown]
# ## N:M
#
# Scattered zeros make a network small on disk, but no faster. Hardware wants a rule: of each $M$ contiguous inputs at
# most $N$ are not zero. With 2:4 a sparse tensor core reads half as much. Here is a dense network, trained now, and
# what it loses when it is read $N$:$M$ without further training. Try $N = M$, 1:16, and $N = 0$.

# %%
dense = live.trained_blocks()
patterns = panel.nm_panel(dense)
patterns

# %% [markdown]
# ## Exercise 3: the mask of N:M


# %% tags=["exercise"]
def n_of_m(w, n, m):
    """w: [F, D]; of each m contiguous inputs (second axis) n stay; returns a mask [F, D]."""
    return ...


checks.n_of_m(n_of_m)


# %% tags=["solution"]
def n_of_m(w, n, m):
    """w: [F, D]; of each m contiguous inputs (second axis) n stay; returns a mask [F, D]."""
    groups = w.abs().view(len(w), -1, m)
    chosen = groups.topk(n, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, chosen, True).view_as(w)


checks.n_of_m(n_of_m)

# %% [markdown] tags=["hint"]
# `view` the weight so that one group is the last axis, then `topk` along it.

# %% [markdown]
# ## Training the mask
#
# From scratch the mask is taken anew in every step, from weights that all keep learning. Which gradient does a weight
# get that was not read? Its own derivative is 0, and with that it would never come back. The **straight-through
# estimator** (STE) gives it the gradient $g$ of the weight that was read in its place, as if it had been read.
# **SR-STE** also lets it shrink:
#
# $$\text{STE: } \; g \qquad\qquad \text{SR-STE: } \; g + \lambda \, (1 - m) \odot w$$
#
# ## Exercise 4: the refined gradient


# %% tags=["exercise"]
def srste_gradient(g, w, mask, decay):
    """All [F, D], mask of 0 and 1, decay the lambda; returns what the optimiser gets."""
    return ...


checks.srste_gradient(srste_gradient)


# %% tags=["solution"]
def srste_gradient(g, w, mask, decay):
    """All [F, D], mask of 0 and 1, decay the lambda; returns what the optimiser gets."""
    return g + decay * (1 - mask) * w


checks.srste_gradient(srste_gradient)

# %% [markdown] tags=["hint"]
# Who shrinks: those that are read, or those that are not?

# %% [markdown]
# Does it help, and what does it do? The **sparse architecture divergence** (SAD) is the share of weights that are in
# one mask and not in the other; here between masks 25 steps apart.

# %%
rules = record[["nm_nll"]].rename(rule="variant").sel(pattern="2:4")
views.variant_strip(rules, "nm_nll")

# %%
masks = record[["sad"]].rename(rule="variant").sel(pattern="2:4").dropna("step", how="all")
views.curves(masks.sel(variant=["STE", "SR-STE"]), "sad")

# %% [markdown]
# One-shot pruning costs half as much loss again as the dense network has, though hardly any accuracy on so easy a task,
# and tuning with the mask held brings it back. Training from scratch lands in between. SR-STE keeps its mask more at
# rest than STE, at every step; in the loss the two lie too close together for five seeds to tell.
#
# ## Lazy neurons
#
# Now leave all weights in place and look at activations. After a ReLU, how many are not 0? With symmetric initial
# weights one half. A transformer of two blocks learns a bigram chain here (the task of lesson 02). Press **Resume**.

# %%
lazy = predict(
    "l10-lazy",
    "Whose neurons become lazy by training: whose share of active ones falls by a tenth or more?",
    [
        "the transformer's and the two-layer network's",
        "the transformer's only",
        "the network's only",
        "nobody's",
    ],
    headless="the transformer's only",
)
lazy

# %%
trainer = panels.train_live(lambda: LEARNERS["transformer"].training(seed=0), steps=150)
trainer.metric.value = "active neurons, mean"
trainer.run_blocking(max_steps=50 if profile == "quick" else None)
trainer

# %%
shown = ["transformer", "transformer, by heart", "network", "network, wide, random labels"]
views.curves(record[["active"]].sel(variant=shown), "active")

# %%
falls = {name: lab.fall(record, name).mean() < 0.9 for name in ("transformer", "network")}
lazy.reveal(
    {(True, True): lazy.options[0], (True, False): lazy.options[1], (False, True): lazy.options[2]}.get(
        (falls["transformer"], falls["network"]), lazy.options[3]
    ),
    "Replace 'transformer' above by another row of LEARNERS and train it yourself.",
)

# %%
lab.lazy_table(record)

# %% [markdown]
# The transformer is lazy within a hundred steps, and on random sequences too, where there is nothing to learn but what
# stands there. The two-layer network on true labels goes the **other way**: in the end three neurons in four fire,
# where it was one in two. Random labels leave the share alone in a narrow network, and make a wide one lazy. One
# suspect is the input: grey values, none below 0, which no norm centres. Change that and train again if you want to
# know.
#
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the record was made.

# %%
scoreboard("l10_tickets_and_nm")

# %% [markdown]
# Said plainly:
#
# - **Tickets are faster, and not more accurate.** At 41 % of the weights they are far ahead after 25 steps, and level
#   with the dense network in the end. So much of that lead is there before the first step that "learns faster" is a
#   generous way to put it.
# - **Against new weights** the ticket keeps a lead of one to four points at 4.8 %, in every seed. Liu et al. (2019)
#   found none where the learning rate was the best for the network; a lead is never a lead over everything.
# - **SR-STE over STE is not shown.** Four seeds of five have a lower loss, the fifth does not, and the differences are
#   small. The published decay, 2e-4, was tuned for SGD; here it goes through Adam, which divides it by the size of
#   gradients. That masks are more at rest is shown.
# - **Very few active neurons** is contradicted here: 23 %, where the paper has 3 and 6 % after training that is longer
#   by orders of magnitude. The fall is there, its end is not.
# - **Two-layer networks as well** is contradicted by ours on true labels. The paper's networks have other data and
#   other sizes; what ours shows is that the fall is no law of ReLU.
# - **Wider is sparser** is shown by a small step, from 25 to 22 %, for eight times the width.
#
# ## Take away
#
# - A pruned network needs two controls: other values at the same places, and other places for the same values.
# - Rewinding shows what training had found: places, and which initial values were good already.
# - N:M from scratch is a gradient that is wrong on purpose, and a mask that moves. SAD says how much.
# - A share of active neurons belongs to a model, its inputs and a time. Quote all three.
#
# ## Further reading
#
# - Frankle and Carbin 2018, *The Lottery Ticket Hypothesis*, arXiv 1803.03635
# - Zhou, Lan, Liu and Yosinski 2019, *Deconstructing Lottery Tickets*, arXiv 1905.01067
# - Liu, Sun, Zhou, Huang and Darrell 2019, *Rethinking the Value of Network Pruning*, arXiv 1810.05270
# - Zhou et al. 2021, *Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch*, arXiv 2102.04010
# - Li et al. 2022, *The Lazy Neuron Phenomenon*, arXiv 2210.06313

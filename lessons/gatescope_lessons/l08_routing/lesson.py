# %% [markdown]
# A router sends each token to a few of many experts. It learns which expert is good from the experts it happened to
# ask, and an expert learns from the tokens it happened to get: who is asked improves, who is not asked stays as it was.
# Here you train eight experts on eight clusters of inputs, see who starves, feed them in two ways, and take apart a
# gate that begins with everybody and lets go.

# %% tags=["parameters"]
profile = "quick"

# %%
import numpy as np
import torch
from gatescope import views
from gatescope.clustered import TASK

from gatescope_lessons.l08_routing import checks, lab
from gatescope_lessons.l08_routing.panel import regate_panel, routing_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()
final = record.isel(step=-1, layer=0)

# %% [markdown]
# ## A task that is made for experts
#
# Inputs lie in eight clusters in $\mathbb{R}^{16}$, and each cluster has a linear map of its own to the targets. They
# share nothing: what one cluster teaches is of no use in another. Eight experts for eight clusters: one each would be
# perfect. Nobody tells the router so.

# %%
x, y, cluster = TASK.batch(0, 4000)
together = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
fit = torch.cat([x, torch.ones(len(x), 1)], 1) @ together
print(f"one linear map for all clusters leaves {float((fit - y).square().mean() / y.var()):.2f} of the variance")

# %% [markdown]
# The layer is the one of a language model, alone (`gatescope.layers.MoE`): a linear router, a softmax, the $k$ best.
#
# $$p = \mathrm{softmax}(x W_r), \qquad y' = \sum_{e \,\in\, \mathrm{top}\text{-}k(p)} p_e \; \mathrm{expert}_e(x)$$
#
# The choice has no gradient. The router learns through $p_e$ of those who were chosen, and through nothing else.

# %%
guess = predict(
    "l08-how-many-starve",
    "Top-1, nothing that balances, 1,500 steps. How many of the eight experts get no token at all in the end?",
    ["none", "one to three", "about half", "all but one: the router collapses"],
    headless="all but one: the router collapses",
)
guess

# %% [markdown]
# ## Train them
#
# Press **Resume** and watch the load of every expert, and which cluster goes to whom. Then **Stop**, choose a way of
# balancing, and go on: rule and $k$ act at once, on the run under way. Can a bias bring an expert back that starved?
# Press **Reset** to begin again, with another seed if you like.

# %%
live = routing_panel()
live.run_blocking(max_steps=150 if profile == "quick" else None)
live

# %% [markdown]
# Five seeds of finished runs come with this lesson. An expert is **dead** when none of 2,048 held-out samples visits
# it.

# %%
top1 = ["top-1", "top-1, loss 0.01", "top-1, loss 0.1", "top-1, bias", "top-2"]
views.variant_strip(final.sel(variant=top1), "experts_dead")

# %%
dead = float(final.experts_dead.sel(variant="top-1").mean())
bands = {0.5: 0, 3.5: 1, 5.5: 2, np.inf: 3}
guess.reveal(
    guess.options[next(option for bound, option in bands.items() if dead < bound)],
    f"Measured: {dead:.1f} on average. They starve, but the layer does not collapse: an expert that has to serve two "
    "clusters serves each of them worse, and that leaves room for another.",
)

# %% [markdown]
# ## Ask for balance
#
# Switch Transformers add a loss. With $f_e$ the share of tokens that chose expert $e$ and $P_e$ the mean of $p_e$ over
# tokens,
#
# $$L = \alpha \, E \sum_e f_e P_e .$$
#
# ## Exercise 1: the loss that asks
#
# Write it, without the $\alpha$.


# %% tags=["exercise"]
def switch_loss(p, choice):
    """p: [T, E]; choice: [T], the expert of each token."""
    return ...


checks.switch_loss(switch_loss)


# %% tags=["solution"]
def switch_loss(p, choice):
    """p: [T, E]; choice: [T], the expert of each token."""
    E = p.shape[1]
    f = torch.bincount(choice, minlength=E) / len(choice)
    return E * (f * p.mean(0)).sum()


checks.switch_loss(switch_loss)

# %% [markdown] tags=["hint"]
# `torch.bincount(choice, minlength=E)` counts the tokens of every expert.

# %% [markdown]
# ## Or just move the threshold
#
# A loss pulls at the router, and at everything before it, in a direction that has nothing to do with the task. Wang et
# al. (2024) do without: a **bias** is added to the probabilities when the best are chosen, and only then. The weights
# of the chosen stay as they were. After every step the bias of an expert with more than its share goes down by a fixed
# amount, that of the others goes up.
#
# ## Exercise 2: one step of the bias


# %% tags=["exercise"]
def move_bias(bias, load, rate):
    """bias, load: [E], load in tokens; returns the bias after one step."""
    return ...


checks.move_bias(move_bias)


# %% tags=["solution"]
def move_bias(bias, load, rate):
    """bias, load: [E], load in tokens; returns the bias after one step."""
    return bias + rate * torch.sign(load.mean() - load)


checks.move_bias(move_bias)

# %% [markdown] tags=["hint"]
# Only the sign of the difference to the mean load counts.

# %% [markdown]
# **MaxVio** says by how much the busiest expert exceeds the even load: 0 is even, $E - 1$ is collapse.

# %%
views.variant_strip(final.sel(variant=top1), "load_violation")

# %% [markdown]
# The strong loss and the bias end at 0.10 in every seed. That is as even as it gets with a cluster to each expert: the
# held-out clusters are not quite equally large. And what does balance do for the error?

# %%
views.variant_strip(final.sel(variant=top1), "error")

# %% [markdown]
# ## Balanced is not specialised
#
# A router that throws dice is perfectly balanced and knows nothing. What we want to know is how much the expert says
# about the cluster: their **mutual information**,
#
# $$I = \sum_{c,e} p(c, e) \, \log \frac{p(c, e)}{p(c)\,p(e)} ,$$
#
# 0 when experts do not care, $\log 8 = 2.08$ nats when every cluster has an expert to itself.
#
# ## Exercise 3: what does the expert say about the cluster?


# %% tags=["exercise"]
def information(counts):
    """counts: array [clusters, E] of visits; returns the mutual information in nats."""
    return ...


checks.information(information)


# %% tags=["solution"]
def information(counts):
    """counts: array [clusters, E] of visits; returns the mutual information in nats."""
    p = counts / counts.sum()
    apart, seen = np.outer(p.sum(1), p.sum(0)), p > 0
    return (p[seen] * np.log(p[seen] / apart[seen])).sum()


checks.information(information)

# %% [markdown] tags=["hint"]
# Leave out places where $p(c, e) = 0$: they add nothing, and their logarithm is no number.

# %%
views.variant_strip(final.sel(variant=top1), "group_information")

# %%
maps = record.isel(step=-1).sel(seed=0)
views.group_expert_map(maps.sel(variant="top-1"))

# %%
views.group_expert_map(maps.sel(variant="top-1, bias"))

# %% [markdown]
# ## Begin with everybody
#
# Top-1 decides before anybody knows anything. EvoMoE (Nie et al. 2021) begins **dense** and lets go step by step. Its
# gate divides the logits by a temperature $\tau$, keeps the experts above a threshold, and cools:
#
# $$p = \mathrm{softmax}\big((x W_r + g)/\tau\big), \qquad \text{kept where } p_e > c, \qquad \tau: 2 \to 0.1$$
#
# with Gumbel noise $g$ while it trains. How many experts a token keeps is up to the token.
#
# ## Exercise 4: the gate that lets go
#
# Write its weights, without noise. Nothing is renormalised.


# %% tags=["exercise"]
def sparse_gate(logits, temperature, threshold):
    """logits: [T, E]; returns weights [T, E], 0 for those who are left out."""
    return ...


checks.sparse_gate(sparse_gate)


# %% tags=["solution"]
def sparse_gate(logits, temperature, threshold):
    """logits: [T, E]; returns weights [T, E], 0 for those who are left out."""
    p = (logits / temperature).softmax(-1)
    return torch.where(p > threshold, p, 0.0)


checks.sparse_gate(sparse_gate)

# %% [markdown] tags=["hint"]
# `torch.where(p > threshold, p, 0.0)` keeps some and zeroes the rest.

# %%
gates = ["top-1", "top-2", "dense to sparse"]
views.curves(record.isel(layer=0).sel(variant=gates), "experts_visited")

# %%
views.curves(record.isel(layer=0).sel(variant=gates, step=slice(300, None)), "error")

# %% [markdown]
# Nobody set the number: it falls because the gate cools, and on the way down it differs from token to token. Its spread
# over tokens is 0 when all are asked, 0 again when one is, and large in between:

# %%
views.curves(record.sel(variant=gates), "experts_spread")

# %% [markdown]
#
# ## Another gate for a trained router
#
# Below are finished models. Their weights stay; the gate is yours: a temperature *on top of* the one it was trained
# with, how many experts every token gets at least, a threshold above which others join, and experts to switch off. Each
# move runs the model again.

# %%
cold = predict(
    "l08-cool-a-trained-router",
    "Multiply the temperature of the trained top-1 model by 5. Its choices stay as they are. What does the error do?",
    ["nothing: the choices are the same", "it grows, because the weights of the chosen experts shrink", "it falls"],
    headless="nothing: the choices are the same",
)
cold

# %%
regate = regate_panel(model="top-1")
regate

# %%
trained = float(regate.frame("numbers")["now"].iloc[0])
regate.apply(temperature=5.0)
hot = float(regate.frame("numbers")["now"].iloc[0])
regate.reset()
cold.reveal(
    cold.options[0 if abs(hot / trained - 1) < 0.05 else 1 if hot > trained else 2],
    f"The error goes from {trained:.3f} to {hot:.3f}. The probability that ranks an expert also multiplies its output: "
    "that is how the router gets a gradient at all, and why its temperature is not a matter of taste.",
)

# %% [markdown]
# Try the ends as well. *Threshold 0* asks every expert: with probabilities as sharp as these, little changes, until you
# warm the gate up. Switch the busiest expert off: nobody takes its place, and its clusters get nothing. Switch off all
# eight, and you see the error of silence. Compare `top-1` with `top-1, bias`: who has experts that can be switched off
# for free? And `dense to sparse`: its temperature ended at 0.1, so times 20 is where it began. More experts are above
# the threshold again, but with hardly any weight: the router itself has become sure.
#
# ## One expert becomes eight
#
# EvoMoE has a phase before: train **one** expert on everything, copy it eight times, and let each copy forget a random
# half of its weights, so that they differ. Then comes the gate. Here the first phase takes 300 of the 1,500 steps.

# %%
which = predict(
    "l08-which-part",
    "Which comparison will show the largest gain in error?",
    [
        "the gate, from scratch, over top-1",
        "the shared start over the gate from scratch",
        "masks over identical copies",
    ],
    headless="the gate, from scratch, over top-1",
)
which

# %%
parts = ["top-1", "dense to sparse", "EvoMoE", "EvoMoE, no masks"]
views.variant_strip(final.sel(variant=parts), "error")

# %%
gains = [
    -float(lab.log_ratio(record, "error", above, below).mean())
    for above, below in (
        ("dense to sparse", "top-1"),
        ("EvoMoE", "dense to sparse"),
        ("EvoMoE", "EvoMoE, no masks"),
    )
]
which.reveal(
    which.options[int(np.argmax(gains))],
    "Errors fall by the factors "
    + ", ".join(f"{np.exp(gain):.2f}" for gain in gains)
    + " in the order of the options, geometric means over five seeds; a factor below 1 is a loss.",
)

# %%
views.variant_strip(final.sel(variant=[*parts, "top-1, bias"]), "experts_dead")

# %% [markdown]
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the record was made.

# %%
scoreboard("l08_routing")

# %% [markdown]
# Said plainly:
#
# - **A weight of 0.01 is too weak here.** It takes away the worst cases (three dead experts become two, and the error
#   falls in four of five seeds), but two experts stay dead in all five. MaxVio hides that: two clusters on one expert
#   make it 1, with one such expert or with two. A weight is relative to the loss it is added to, and our squared error
#   is far smaller than the nats of a language model. With 0.1 all experts live.
# - **The bias balances as well as the strong loss, without a weight to choose.** Against the loss of 0.01 it wins
#   clearly. Against the loss of 0.1 nothing can be told: better in two seeds, worse in three. On this task balance and
#   error want the same thing, one expert a cluster, so a loss that asks for balance has nothing to interfere with.
# - **A dense start is no cure for starvation.** The gate gets to one expert a token, and ends lower on average, but
#   with one to three dead experts, and in two of five seeds it is no better than top-1.
# - **Neither the shared start nor the masks helped.** Identical copies did better than masked ones in every seed,
#   though by so different amounts that the interval reaches zero. Our clusters share nothing, so there is little for a
#   shared expert to learn, and half of that is thrown away again. In language much of what an expert needs *is* shared.
#   This task cannot show what the paper claims; it can show what the claim rests on.
# - **Errors follow dead experts.** Over all runs that end with one expert a token, whatever the method, the rank
#   correlation of error and dead experts is 0.84.
#
# ## Take away
#
# - The choice of an expert has no gradient. Who is not asked cannot learn, and who cannot learn is not asked.
# - Count the tokens of every expert before you trust a loss curve: a layer with three dead experts trains without a
#   sign.
# - The loss moves the router, the bias moves the choice alone. Both keep eight experts alive.
# - Balance and specialisation are two numbers. At top-2 nobody starves, and an expert says half of what it could about
#   the cluster.
# - A gate that cools makes the number of experts a matter of the token, for a while. Whom it ends with is still luck.
# - Take a method apart before you praise it as a whole: here the gate, the start and the masks each had a control.
#
# ## Further reading
#
# - Shazeer et al. 2017, *Outrageously Large Neural Networks*, arXiv 1701.06538
# - Fedus, Zoph, Shazeer 2021, *Switch Transformers*, arXiv 2101.03961
# - Nie et al. 2021, *EvoMoE*, arXiv 2112.14397
# - Wang et al. 2024, *Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts*, arXiv 2408.15664
# - Chen et al. 2022, *Towards Understanding Mixture of Experts in Deep Learning*, arXiv 2208.02813

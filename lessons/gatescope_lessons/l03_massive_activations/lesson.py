# %% [markdown]
# In SmolLM2 one number of a hidden state is more than ten thousand times as large as the median of all others, and
# without it the model can no longer write. Nobody put it there: it is learnt. Gallego-Feliciano et al. (2025) watched
# such **massive activations** come about in the Pythia models and found one law with five parameters for all of them.
# You will search for massive activations in small models, fit the law while they train, put it to harder tests than a
# fit, and at last look at the formed state: who writes the number, and what it is good for.

# %% tags=["parameters"]
profile = "quick"

# %%
import numpy as np
import pandas as pd
import torch
from gatescope import views
from gatescope.emergence import FEATURES, LAWS, MODULATED, compare_laws, fit_law, held_out_error, turning_point
from scipy.special import lambertw

from gatescope_lessons.l03_massive_activations import checks, lab, live, panel
from gatescope_lessons.l03_massive_activations.fitted import masks
from gatescope_lessons.l03_massive_activations.formed import SETTINGS
from gatescope_lessons.l03_massive_activations.runs import ARMS, BASE, record_run
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()

# %% [markdown]
# ## What counts as massive
#
# Sun et al. (2024) call a value $h$ of a hidden state $[T, D]$ **massive** when $|h| > 100$ *and* $|h|$ is at least
# 1,000 times the median of all $|h|$ of that layer. Both conditions are needed: a model can simply be loud.
#
# ## Exercise 1: count them


# %% tags=["exercise"]
def massive_count(h):
    """h: [T, D]; returns how many values are massive."""
    return ...


checks.massive_count(massive_count)


# %% tags=["solution"]
def massive_count(h):
    """h: [T, D]; returns how many values are massive."""
    a = h.abs()
    return int(((a > 100) & (a >= 1000 * a.median())).sum())


checks.massive_count(massive_count)

# %% [markdown] tags=["hint"]
# Both conditions are about $|h|$, and so is the median.

# %% [markdown]
# ## The search
#
# Which is the smallest model that forms them? Ten ways to train were tried, three seeds each: the base has 4 layers,
# width 32, one head, SwiGLU, a BOS in front of every sequence and no weight decay; every other way changes one thing.

# %%
search = predict(
    "l03-search",
    "In how many of the ten does any value become massive by Sun's rule?",
    ["in none", "in one or two", "in most"],
    headless="in most",
)
search

# %%
tried = lab.search_table(record)
tried

# %%
having = int((tried["massive"] > 0).sum())
answer = search.options[0] if not having else search.options[1] if having < 3 else search.options[2]
best = tried["ratio at its largest"].idxmax()
search.reveal(answer, f"The largest ratio is {tried['ratio at its largest'].max():.0f} ({best}); the bar is 1,000.")

# %% [markdown]
# Look at the learning rate of 0.02: magnitude alone would have called it massive. All its values grew together, and the
# ratio says so. The paper met the same bar problem: its smallest model, Pythia-14M, ends at a ratio of 83, and so it
# follows **the ratio of the largest value to the median**, whatever its size. So do we from here on: what you see below
# is how a ratio of 5 becomes one of 10 or 30, *not* how massive activations form.

# %%
views.curves(lab.layer_curves(record, BASE, 0), "massive_ratio")

# %% [markdown]
# ## The law
#
# $$f(t) = A\, e^{-\lambda x} \log x + K, \qquad x = \gamma t + t_0$$
#
# - $K$: where the ratio **settles**, for the exponential wins over the logarithm in the end
# - $A$: how far it swings on the way
# - $\lambda$: the **decay**. Without it the law is a plain logarithm
# - $\gamma$ and $t_0$: how steps become $x$

# %%
sooner = predict(
    "l03-decay",
    "The law peaks during training. Now you make λ ten times as large. The peak comes",
    ["sooner", "later", "at the same step"],
    headless="sooner",
)
sooner

# %%
law = panel.law_panel(record, variant=BASE, layer=1)
law

# %%
at = [turning_point(decay=decay, rate=0.05, offset=0.7) for decay in (0.05, 0.5)]
answer = sooner.options[0] if at[1] < at[0] else sooner.options[1]
sooner.reveal(answer, f"With γ = 0.05 and t₀ = 0.7 it moves from step {at[0]:.0f} to step {at[1]:.0f}.")

# %% [markdown]
# Press **Fit**, and look at the standard errors. Then choose other layers and other ways to train. Where the series has
# not turned yet, $K$ is *open*: a logarithm that is cut off says nothing about where it would have settled. Go to the
# ends of $\lambda$: at $10^{-9}$ the law is a logarithm, at 30 it has turned before training begins.
#
# All of this was recorded. Here is a run of your own, trained now: 96 steps with tied embeddings. Change the seed or
# the way, and give it 288 steps if you have the time.

# %%
own = record_run(ARMS["tied embeddings"], seed=7, steps=96)
own_steps, own_ratios = own.step.values, own.massive_ratio.isel(layer=-1).values
fit = fit_law(own_steps, own_ratios)
shown = live.drawn_laws(own_steps, own_ratios, {MODULATED: fit.predict(own_steps)})
views.law_fit(shown.assign_attrs(note="tied embeddings, last layer, seed 7, trained now"))

# %% [markdown]
# ## Exercise 2: the turning point
#
# Set $f'(t) = 0$ and solve for $t$. You will need Lambert's function: $y = W(z)$ solves $y e^y = z$, and
# `lambertw(z).real` computes it.


# %% tags=["exercise"]
def turns_at(lam, gamma, t0):
    """Returns the step t at which the law turns."""
    return ...


checks.turning_point(turns_at)


# %% tags=["solution"]
def turns_at(lam, gamma, t0):
    """Returns the step t at which the law turns."""
    return (np.exp(lambertw(1 / lam).real) - t0) / gamma


checks.turning_point(turns_at)

# %% [markdown] tags=["hint"]
# $1 / x = \lambda \log x$. Write $y = \log x$.

# %% [markdown]
# ## Does it fit? Is it needed?
#
# Five parameters fit a lot. So every layer of every run was also fitted by simpler laws: the plain **logarithm** (the
# law without its exponential), a **power**, a **logistic** switch, and the step responses of **first** and **second
# order** systems, which the paper compared its law with. The rivals have a level of their own here, as the law has.

# %%
shares = {
    name: {
        "parameters": len(LAWS[name].parameters),
        "mean R²": float(record.law_r2.sel(law=name).mean()),
        "best AIC in": float((record.law_aic.idxmin("law") == name).sum() / record.law_aic.sel(law=name).count()),
    }
    for name in LAWS
}
pd.DataFrame.from_dict(shares, orient="index").round(3)

# %% [markdown]
# ## Exercise 3: what a parameter costs
#
# $R^2$ can only rise with more parameters. **Akaike's criterion** lets them cost something: $n \log(\text{mean } r^2) +
# 2 p$, and less is better. Write it.


# %% tags=["exercise"]
def akaike(r, p):
    """r: residuals [n]; p: number of parameters; returns AIC."""
    return ...


checks.akaike(akaike)


# %% tags=["solution"]
def akaike(r, p):
    """r: residuals [n]; p: number of parameters; returns AIC."""
    return len(r) * np.log(np.mean(r**2)) + 2 * p


checks.akaike(akaike)

# %% [markdown] tags=["hint"]
# Mean of the squares, logarithm, times $n$; then the price.

# %% [markdown]
# One series, three laws. Below you see what AIC does not: residuals that go up and down *together* are not noise but
# something the law has missed.

# %%
steps, ratios = lab.series(record, "tied embeddings", 0, 0)
rivals = compare_laws(steps, ratios, (MODULATED, "logarithm", "second order"))
drawn = live.drawn_laws(steps, ratios, {name: fit.predict(steps) for name, fit in rivals.items()})
views.law_fit(drawn.assign_attrs(note="tied embeddings, layer 0, seed 0"))

# %% [markdown]
# ## Steps that it did not see
#
# A harder test: fit without some of the steps, and judge on those alone. *Between* leaves out every third point,
# *after* the last third of the training. Errors are shares of the range of the series. Beside them stands somebody who
# simply says the last value seen again.

# %%
foretell = predict(
    "l03-after",
    "On the last third of the training, whose error is smaller?",
    ["the law's, by a factor of two or more", "the law's, by less", "that of the last value seen"],
    headless="the law's, by a factor of two or more",
)
foretell

# %%
held = record.held_out.dropna("law", how="all").median(("variant", "seed", "layer")).to_pandas()
held.loc["after", "last value seen"] = float(record.held_out_last.median())
held.round(3)

# %%
factor = 10 ** -float(lab.after_over(record, record.held_out_last).mean())
place = 0 if factor >= 2 else 1 if factor > 1 else 2
foretell.reveal(foretell.options[place], f"Geometric mean of last value's error over the law's: {factor:.2f}.")

# %%
after = masks(steps)["after"]
{name: round(held_out_error(steps, ratios, after, name) / np.ptp(ratios), 3) for name in rivals}

# %% [markdown]
# ## Architectures that it did not see
#
# The paper goes further: from the architecture of a model and the place of a layer it predicts the parameters, $K$ best
# of all. For that it holds out a fifth of the *layers*, at random.
#
# ## Exercise 4: an honest split
#
# Layers of one model resemble each other. Return splits in which the layers that are tested belong to an architecture
# of which *nothing* was fitted.


# %% tags=["exercise"]
def architecture_splits(names):
    """names: [n], the architecture of every row; returns [(train, test), ...], row numbers."""
    return ...


checks.architecture_splits(architecture_splits)


# %% tags=["solution"]
def architecture_splits(names):
    """names: [n], the architecture of every row; returns [(train, test), ...], row numbers."""
    return [(np.flatnonzero(names != name), np.flatnonzero(names == name)) for name in np.unique(names)]


checks.architecture_splits(architecture_splits)

# %% [markdown] tags=["hint"]
# One split for every different name.

# %% [markdown]
# Both splits, with ridge regression on the paper's ten features. $R^2 = 0$ is as good as saying the mean.

# %%
rows = {
    name: {f"new {split}": float(lab.foretold(record, name, split).mean()) for split in ("layers", "architectures")}
    for name in ("decay", "rate", "offset", "steady")
}
pd.DataFrame.from_dict(rows, orient="index").round(2)

# %%
pd.Series(FEATURES, name="features, of layer l of L, width d, H heads, MLP of F").to_frame()

# %% [markdown]
# ## The formed state
#
# Small models do not get there, so look at one that did. SmolLM2-135M read five texts. At the place of its largest
# value (first token, one dimension), what does each block add?

# %%
views.written_profile(record.sel(text="letter")[["formed_value", "written_attention", "written_mlp"]])

# %% [markdown]
# One MLP writes the number in a single stroke, all blocks behind it carry it along, and the last ones take it back.
# Now change it. Every move runs the model: zero the number, or a random other dimension at the same place, or the same
# dimension at another token. Then move the layer: what if it is zeroed *before* it is written? Or after the last block
# that reads it?

# %%
number = panel.number_panel(change="zero it", layer=11)
number

# %%
means = record.nll.sel(setting=list(SETTINGS)).to_pandas().T
means.round(3)

# %% [markdown]
# The last row is the finding: put the mean of *other* texts in its place, and nothing is lost. What the model needs is
# not information about this text. It is a constant that has to be there.
#
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, seeds or texts) were written before the record was made.

# %%
scoreboard("l03_massive_activations")

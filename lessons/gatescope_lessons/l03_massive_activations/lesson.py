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
from gatescope_lessons.l03_massive_activations.runs import ARMS, record_run
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
# None comes anywhere near: longer training, a larger width and above all a larger learning rate help, and 1,000 is far.
# Look at the last columns. On English the largest magnitude is 67, close to the first condition, at a ratio of 12: that
# model is loud, not massive. The paper met the same problem of the bar: its smallest model, Pythia-14M, ends at a ratio
# of 83, and so it follows **the ratio of the largest value to the median**, whatever its size. So do we from here on.
# What you see below is how a ratio of 6 becomes one of 8 to 25. It is *not* how massive activations form.

# %%
views.curves(lab.layer_curves(record, "width 64", 0), "massive_ratio")

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
law = panel.law_panel(record, variant="width 64", layer=0)
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
held = record.held_out.dropna("law", how="all").dropna("setting", how="all")
held = held.median(("variant", "seed", "layer")).to_pandas()
held.loc["after", "last value seen"] = float(record.held_out_last.median())
held.round(3)

# %%
factor = 10 ** -float(lab.after_over(record, record.held_out_last).mean())
place = 0 if factor >= 2 else 1 if factor > 1 else 2
foretell.reveal(foretell.options[place], f"Geometric mean of last value's error over the law's: {factor:.2f}.")

# %%
after = masks(steps)["after"]
errors = {name: held_out_error(steps, ratios, after, name) / np.ptp(ratios) for name in rivals}
pd.Series(errors, name="tied embeddings, layer 0: error on the last third").to_frame().round(3)

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

# %% [markdown]
# Said plainly:
#
# - **No massive activation formed in any small model.** The ratio does grow in training, by a factor of two on average
#   in the layer where it is largest. That much is shown. All verdicts on the law are verdicts on *this* growth. The
#   search was small: 288 steps a run, 1,152 at most. It cannot say that no small model forms them.
# - **The law fits, and not as well as in Pythia.** It explains 0.77 to 0.83 of the variance, where the paper has 0.93
#   for its smallest model and 0.98 on average. By terms written beforehand that is *contradicted* at this scale. It
#   comes to 0.93 at width 64 and to 0.90 in the longer run, so a larger model trained for longer may well follow it.
# - **It is the best of six laws, by little.** It has the lowest AIC in 39 % of the series; a switch between two levels
#   follows with 31 %. Against the second-order response, the paper's best rival, it is a draw. Ours has a level of its
#   own, which the paper's lacks, and that alone makes it a better rival. And residuals hang together: 30 points of one
#   run are fewer than 30 independent ones, and every criterion takes them for independent.
# - **It hardly foretells.** On the last third of the training its error is about that of the last value seen.
# - **Layers are not as in Pythia.** Here it is mostly the first layer that has the largest ratio, not a middle one, and
#   ends and middle do not peak at different times. With four layers there is hardly a middle.
# - **Architecture foretells nothing here.** Negative $R^2$ means worse than saying the mean, even with layers of the
#   same model on both sides. One reason you saw yourself: in 39 % of the fits the standard error of $K$ is infinite.
#   Where the series has not turned, there is no $K$ to be predicted. Six architectures are also very few.
# - **SmolLM2 is another matter.** In all five texts the MLP of layer 11 writes more than 99 % of the number in a single
#   stroke. Without it the loss rises by 9 to 14 nats. With the mean of other texts in its place it stays as it was. A
#   pilot on two other texts had shown as much before these two terms were written.
#
# ## Take away
#
# - Massive is a magnitude *and* a ratio. Name both with every count.
# - A high $R^2$ says that a law can be bent to a series. Rivals, held-out steps and held-out architectures say whether
#   it knows something.
# - Read a parameter together with its error. An asymptote of a curve that has not bent is a guess.
# - Layers of one model are not independent rows: split by model.
# - A massive activation is written by one MLP, read as a constant, and taken back at the end.
#
# ## Further reading
#
# - Gallego-Feliciano, McClendon, Morinelli, Zervoudakis, Saravanos 2025, *Hidden Dynamics of Massive Activations in
#   Transformer Training*, arXiv 2508.03616; sections and tables as in version 2. Their fits and statistics of Pythia
#   are public, under the MIT licence
# - Sun, Chen, Kolter, Liu 2024, *Massive Activations in Large Language Models*, arXiv 2402.17762
# - Akaike 1974, *A New Look at the Statistical Model Identification*
# - Golub and Pereyra 1973, on least squares whose linear half is solved exactly, as `fit_law` does

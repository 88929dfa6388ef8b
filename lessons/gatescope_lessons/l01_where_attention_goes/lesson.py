# %% [markdown]
# A transformer decides, at every position, how much to look at every earlier position. You would think it looks at
# the words that matter. Let us measure where it really looks, in a language model that was trained on two trillion
# tokens and that fits on your laptop: SmolLM2-135M, with 30 layers of 9 heads.
#
# Nothing here is replayed. Every number on this page is computed by the model in front of you, on the text you
# choose.

# %% tags=["parameters"]
profile = "quick"

# %%
from textwrap import fill

from gatescope import panels, views
from gatescope.interventions import MaskKeys, ZeroDims
from gatescope.models.smollm2 import load_smollm2
from gatescope.panels.plot import Plot
from gatescope.reading import read_text
from gatescope.tasks.text import story

from gatescope_lessons.l01_where_attention_goes import checks, lab
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

pretrained = load_smollm2()
model, tokenizer = pretrained.model, pretrained.tokenizer

text = story()
tokens = tokenizer.prepare(text)
print(*(fill(paragraph, 100) for paragraph in text.splitlines()), sep="\n")
print(f"\n{tokens.shape[1]} tokens, no token added in front")

# %% [markdown]
# ## Predict first
#
# Take the attention of every head in every layer to **the first token** of this story, averaged over all later
# positions. If attention were spread evenly, it would be about 3 %. What will it be?

# %%
guess = predict(
    "l01-first-attention",
    "Mean attention to the first token, over all 270 heads:",
    ["about 3 %, as if spread evenly", "10 to 20 %", "30 to 60 %", "over 90 %"],
    headless="10 to 20 %",
)
guess

# %% [markdown]
# ## The sink map
#
# One row is a layer, one cell a head. The colour is **first-token attention**: the mean of $A_{i0}$ over the
# positions $i \ge 1$, where $A_{ij}$ is the weight with which position $i$ reads position $j$. Position 0 is left
# out, because it can only read itself.

# %%
record = read_text(pretrained, text)
views.sink_heatmap(record)

# %%
mean_first = float(record.first_attention.mean())
bands = {0.1: "about 3 %, as if spread evenly", 0.25: "10 to 20 %", 0.75: "30 to 60 %", 1.01: "over 90 %"}
guess.reveal(
    next(option for bound, option in bands.items() if mean_first < bound),
    f"The mean is {mean_first:.0%}. The first word of the story gets more attention than any other.",
)

# %% [markdown]
# The first token is an **attention sink** (Xiao et al. 2023). It is not the meaning of the word: put any text you
# like into the panel below, and see at which layer the map lights up again.
#
# The panel also shows three things we come to next: entropy, massive activations and value drain. Press **Run**
# after typing; a pass takes a second or two. What happens with a single word repeated twenty times?

# %%
explorer = panels.explore(pretrained, "The old clock in the hall struck nine, and nobody was there to hear it.")
explorer

# %% [markdown]
# ### Token by token
#
# A mean over positions hides who looks where. The **lens** shows one position at a time: blue is what the framed token
# reads, orange is what reads it. Move the mouse over the words, click to hold one, or focus the text and use the arrow
# keys. The small map is the sink map again; click a cell to see that head. Which dark head looks at the token before
# itself? What do the light ones do with a word that has nothing to find?

# %%
lens = panels.attention_lens(
    pretrained, "The committee agreed that the old bridge should be repaired. Nobody asked who would pay for it."
)
lens

# %% [markdown]
# ## How focused is a head?
#
# The **row entropy** $H_i = -\sum_j A_{ij} \log A_{ij}$ is 0 when position $i$ reads one key, and $\log n_i$ when it
# reads all its $n_i$ visible keys equally. Divided by $\log n_i$ it lies between 0 and 1. A head that stares at the
# sink has low entropy, and so has a head that copies one word. Low entropy alone does not tell them apart; the map
# above does.

# %%
views.entropy_heatmap(record)

# %% [markdown]
# ## Exercise 1: the sink without the matrix
#
# The full matrix of weights has $T \times T$ entries a head. For one column of it you need none of that. Flash
# attention leaves one number a row behind: the log of the softmax denominator, $\mathrm{LSE}_i = \log \sum_j
# \exp(s \, q_i \cdot k_j)$. Write first-token attention from it, over the rows $i \ge 1$.


# %% tags=["exercise"]
def first_attention(q, k, lse, scale):
    """q, k: [T, K]; lse: [T]; returns the mean over rows i >= 1 of A[i, 0]."""
    return ...


checks.first_attention(first_attention)


# %% tags=["solution"]
def first_attention(q, k, lse, scale):
    """q, k: [T, K]; lse: [T]; returns the mean over rows i >= 1 of A[i, 0]."""
    weights = (scale * q @ k[0] - lse).exp()
    return weights[1:].mean()


checks.first_attention(first_attention)

# %% [markdown] tags=["hint"]
# Softmax divides by the sum of exponentials. The log of that sum is the LSE of the row, and you are given it.

# %% [markdown] tags=["hint"]
# $A_{i0} = \exp(s \, q_i \cdot k_0 - \mathrm{LSE}_i)$. That is one number a row: `q @ k[0]` gives all of them.

# %% [markdown] tags=["hint"]
# `weights = (scale * q @ k[0] - lse).exp()`, then the mean of `weights[1:]`.

# %% [markdown]
# ## Exercise 2: a fair entropy
#
# You get the row entropies of a causal head, in nats. Return them as shares of the largest value each row can have.
# Leave out row 0, which has no choice.


# %% tags=["exercise"]
def normalised_entropy(entropy):
    """entropy: [T]; returns [T - 1], the rows from the second, each between 0 and 1."""
    return ...


checks.normalised_entropy(normalised_entropy)


# %% tags=["solution"]
def normalised_entropy(entropy):
    """entropy: [T]; returns [T - 1], the rows from the second, each between 0 and 1."""
    visible = entropy.new_ones(len(entropy)).cumsum(0)
    return entropy[1:] / visible[1:].log()


checks.normalised_entropy(normalised_entropy)

# %% [markdown] tags=["hint"]
# Row $i$ of a causal head sees $i + 1$ keys. Which distribution over them has the largest entropy, and how much
# is it?

# %% [markdown] tags=["hint"]
# Uniform attention over $n$ keys has entropy $\log n$. Divide row $i$ by $\log(i + 1)$, and start at row 1.

# %% [markdown]
# ## Massive activations
#
# Now look inside the residual stream: 576 numbers a token, after every layer. Most are below 10. Here is the whole
# hidden state of one layer, as magnitude over tokens and dimensions. Turn it with the mouse.

# %%
layer, dim = lab.massive_site(record)
Plot(views.massive_3d(record, layer=layer))  # as in a panel: it waits for the others on the page to stand

# %%
views.massive_table(record, layer=layer)

# %%
views.massive_profile(record)

# %% [markdown]
# A handful of values, always on the same token and in the same few dimensions, are thousands of times larger than
# the typical one. Sun et al. (2024) call a value **massive** when its magnitude is above 100 *and* at least 1,000
# times the median magnitude of its layer.
#
# ## Exercise 3: find them
#
# Return the places `(token, dim)` of all massive activations in a hidden state.


# %% tags=["exercise"]
def massive_activations(h):
    """h: [T, D], one layer; returns pairs (token, dim)."""
    return ...


checks.massive_activations(massive_activations)


# %% tags=["solution"]
def massive_activations(h):
    """h: [T, D], one layer; returns pairs (token, dim)."""
    magnitude = h.abs()
    massive = (magnitude > 100) & (magnitude >= 1000 * magnitude.median())
    return massive.nonzero().tolist()


checks.massive_activations(massive_activations)

# %% [markdown] tags=["hint"]
# Two conditions, joined with `&`. Mind the sign: a massive value may be negative.

# %% [markdown] tags=["hint"]
# The median is over the whole layer, all tokens and all dimensions: `h.abs().median()`.

# %% [markdown]
# ## Attending to nothing
#
# Why would a model send a third of its attention to a word that says nothing? Look at what it reads there.
# Attention adds up *values*, and in most layers the value of the first token is short: its norm is a fraction of the
# others'. Reading it adds next to nothing. Softmax weights must sum to 1, so a head with nothing to do needs a place
# to put them: it puts them where they do no harm. This is **value drain**.
#
# Compare the bars with the sink map. In which layers is the first value *not* short, and how bright is the map there?
# In which layer did the massive activation appear?

# %%
views.value_drain_bars(record)

# %% [markdown]
# ## Cut it and see
#
# So far we only looked. To learn whether a thing matters, change it and watch the loss, always beside a **matched
# random control**: the same kind of change, somewhere else.
#
# - **Zero a massive dimension** after the layer where it appears. Control: as many other dimensions.
# - **Mask the first key**, so that nobody can read it. Control: another key.
# - **A sliding window** of recent keys, with 0, 1 or 4 of the first tokens kept. Control: the same number of keys
#   as a plain window.
#
# Predict the loss before you move a control. Which one number out of 98,000 in that layer can the model not do
# without?

# %%
cutter = panels.intervene(pretrained, text, kind="zero dims", dims=str(dim), after_layer=layer)
cutter

# %% [markdown]
# The same in code, for the massive dimension of this text:

# %%
massive = ZeroDims([dim], after_layers=[layer])
print(f"{lab.loss(model, tokens):7.3f} nats a token, unchanged")
print(f"{lab.loss(model, tokens, massive):7.3f} with dimension {dim} zeroed after layer {layer}")
for seed in range(3):
    print(f"{lab.loss(model, tokens, massive.control(seed)):7.3f} with a random dimension zeroed instead")

# %% [markdown]
# ## Exercise 4: where did the sink go?
#
# Masking the first key hardly changes the loss. Then where does the attention go? The record below was made with the
# first key hidden. Find the token that now receives the most attention, averaged over layers and heads.

# %%
with MaskKeys([0]).on(model):
    masked = read_text(pretrained, text)
views.key_mass_bars(masked)

# %% tags=["exercise"]
new_sink = ...  # the position of a token

checks.where_the_sink_went(new_sink, masked)

# %% tags=["solution"]
new_sink = int(masked.key_mass.mean(("layer", "head")).fillna(0).argmax("token"))

checks.where_the_sink_went(new_sink, masked)

# %% [markdown] tags=["hint"]
# `masked.key_mass` has dimensions layer, head and token: how much each token receives from the rows that see it.

# %% [markdown] tags=["hint"]
# Average over `("layer", "head")`, then `argmax("token")`. Tokens that nobody can read hold NaN: `fillna(0)`.

# %% [markdown]
# ## What the papers say, and what we measured
#
# Each line is one claim of a paper. What would count (metric, direction, margin, number of texts) was written down
# before the measurement; the verdict is computed from the record in `data/measured/`. *Not shown at this scale* means
# just that: look at the interval, and at what the paper measured instead.

# %%
scoreboard("l01_where_attention_goes")

# %% [markdown]
# ## Take away
#
# - A sink is a place to put attention that has nothing to do. Its value is short, so it costs nothing.
# - It hangs on a few massive activations. Zero one of 576 dimensions, and the model is ruined; zero another, and
#   nothing happens.
# - A window that drops the first tokens takes the sink away, and the model breaks. Keep them, and it works.
# - All of this can be measured in $O(T)$ memory, so it can be measured on long texts and during training.
#
# If softmax forces heads to read *something*, what if we give them a way to read nothing? That is lesson 02.
#
# ## Further reading
#
# - Xiao, Tian, Chen, Han, Lewis 2023, *Efficient Streaming Language Models with Attention Sinks*, arXiv 2309.17453
# - Gu et al. 2024, *When Attention Sink Emerges in Language Models: An Empirical View*, arXiv 2410.10781
# - Sun, Chen, Kolter, Liu 2024, *Massive Activations in Large Language Models*, arXiv 2402.17762
# - Allal et al. 2025, *SmolLM2: When Smol Goes Big*, arXiv 2502.02737

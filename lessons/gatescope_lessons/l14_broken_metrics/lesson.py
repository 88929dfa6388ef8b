# %% [markdown]
# Eight patients come in. Each is a metric of a few lines: it runs, its number is plausible, its figure looks like a
# finding, and the finding is wrong. Nobody meant harm. These are easy mistakes, and
# several of them stand in public code.
#
# How would you know? Not by reading the code again: it was read. Ask of every number:
#
# 1. **What is it on an input whose answer I know?** Uniform attention, a router that is certain, an even load.
# 2. **Which rows, tokens or experts are counted?** Row 0? Padding? A batch, or everything seen?
# 3. **What is it divided by, or compared with?** With what it could be at most, or by chance, *there*?
# 4. **Does the input hold what its name says?**
#
# And there is a lever: find the **control** that makes the fault larger, and the place where it vanishes.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch

from gatescope_lessons.l14_broken_metrics import checks, lab
from gatescope_lessons.l14_broken_metrics.panel import clinic_panel
from gatescope_lessons.predictions import predict

# %% [markdown]
# ## The first patient, together
#
# A trained model reads a story. For every row of its attention somebody took the **row entropy**, divided it by what
# it can be at most, and drew the mean over all heads:

# %%
clinic = clinic_panel(patient="row entropy", show="symptom")
clinic

# %% [markdown]
# *Attention starts out focused and loses its focus as the model reads on.* It sounds like a discovery. Look at the
# code on the card, and think of question 3: how large can the entropy of row 2 be?

# %%
guess = predict(
    "l14-row-entropy",
    "Divided by what each row can reach, how focused is the row that sees 4 keys beside the one that sees 64?",
    ["much more focused, as drawn", "about as focused", "much less focused"],
    headless="much more focused, as drawn",
)
guess

# %% [markdown]
# Now press *diagnosis* on the panel, and move the dose from end to end. Where do the two curves meet, and why there?

# %%
rows = lab.curve("row entropy").set_index("dose")
ratio = rows["sound"][4] / rows["sound"][64]
guess.reveal(
    guess.options[0 if ratio < 0.5 else 1 if ratio < 2 else 2],
    f"As it came in the entropies are {rows['broken'][4]:.2f} and {rows['broken'][64]:.2f}; as shares of what each row "
    f"can reach {rows['sound'][4]:.2f} and {rows['sound'][64]:.2f}. Most of the rise was log n over log T.",
)

# %% [markdown]
# The finding was arithmetic. It vanishes at the last row, which sees all $T$ keys: whoever tested the code there saw
# the right number. Keep this in mind, it is so with every patient: **there is an input on which the fault does no
# harm**, and it is often the one that was tried.
#
# The other patients are yours. Each comes as its symptom; look, find the fault, write the repair. The check runs it on
# inputs whose answer is known, and tells which fault is left. Then press *diagnosis*.
#
# ## Patient 2: the gate that works on long sequences only
#
# Lesson 02 found that a gate after attention takes the **attention sink** away. On short sequences, says this figure,
# it does not.

# %%
clinic_panel(patient="first-token attention", show="symptom")

# %%
short = predict(
    "l14-short-sequences",
    "A head that does not care spreads its attention evenly. What does this metric say of it at T = 4?",
    ["0", "about 0.25", "about 0.5", "1"],
    headless="about 0.25",
)
short

# %%
T = 4
indifferent = 1 / torch.arange(1, T + 1)
said = float(indifferent.mean())
short.reveal(
    min(short.options, key=lambda option: abs(float(option.split()[-1]) - said)),
    f"{said:.3f}: the mean of 1, 1/2, 1/3 and 1/4. At T = 4,096 the same head scores 0.002.",
)

# %% [markdown]
# ### Exercise 1
#
# Write the metric so that a head that does not care scores 0 at every length: attention to the first token *beyond*
# that of uniform attention, the mean over the rows that have a choice.


# %% tags=["exercise"]
def first_attention(first):
    """first: [T], A[i, 0] of every row; returns one number. It came in as first.mean()."""
    return ...


checks.first_attention(first_attention)


# %% tags=["solution"]
def first_attention(first):
    """first: [T], A[i, 0] of every row; returns one number. It came in as first.mean()."""
    visible = torch.arange(2, len(first) + 1)
    return (first[1:] - 1 / visible).mean()


checks.first_attention(first_attention)

# %% [markdown] tags=["hint"]
# Which row has no choice? And how much does row $i$ give the first token when it gives all its keys alike?

# %% [markdown] tags=["hint"]
# Row $i$ sees $i + 1$ keys: subtract $1 / (i + 1)$ from each row, from the second on, then take the mean.

# %% [markdown]
# ## Patient 3: the sink that fades in company
#
# One text of 32 tokens, read by SmolLM2 in a batch whose longest text has 32, 36, ... or 128 tokens. The model is
# causal: what follows a text cannot change how it is read. And yet:

# %%
clinic_panel(patient="padded batch", show="symptom")

# %% [markdown]
# ### Exercise 2
#
# You get a number for every place of a padded batch, and a mask that is True on text. Return the mean over tokens of
# text: every token counts once. Mind that padding may hold anything, NaN as well.


# %% tags=["exercise"]
def mean_over_tokens(values, text):
    """values: [B, T]; text: [B, T], True on text; returns one number. It came in as values.mean()."""
    return ...


checks.mean_over_tokens(mean_over_tokens)


# %% tags=["solution"]
def mean_over_tokens(values, text):
    """values: [B, T]; text: [B, T], True on text; returns one number. It came in as values.mean()."""
    return values[text].mean()


checks.mean_over_tokens(mean_over_tokens)

# %% [markdown] tags=["hint"]
# A mask can be an index: `values[text]` holds the text and nothing else.

# %% [markdown]
# ## Patient 4: the sink that does nothing
#
# gpt-oss gives every head a learned logit that joins the softmax and reads nothing, so that a head with nothing to do
# can leave the first token alone. Here such a logit is put into a head of lesson 02 that had none, and turned up.
# Attention is recomputed from the scores:

# %%
clinic_panel(patient="learned sink", show="symptom")

# %% [markdown]
# ### Exercise 3
#
# Return the mean over rows $i \ge 1$ of $A_{i0}$ with the sink in the softmax. It must hold for scores of any size.


# %% tags=["exercise"]
def first_attention_with_sink(scores, sink):
    """scores: [T, T], minus infinity in the future; sink: one logit; returns one number.

    It came in as scores.softmax(-1)[1:, 0].mean()
    """
    return ...


checks.first_attention_with_sink(first_attention_with_sink)


# %% tags=["solution"]
def first_attention_with_sink(scores, sink):
    """scores: [T, T], minus infinity in the future; sink: one logit; returns one number.

    It came in as scores.softmax(-1)[1:, 0].mean()
    """
    outcomes = torch.cat([scores, sink.expand(len(scores), 1)], dim=-1)
    return outcomes.softmax(-1)[1:, 0].mean()


checks.first_attention_with_sink(first_attention_with_sink)

# %% [markdown] tags=["hint"]
# With the sink, $A_{ij} = e^{s_{ij}} / (e^{z} + \sum_k e^{s_{ik}})$: the sink $z$ is one more outcome of every row.

# %% [markdown] tags=["hint"]
# `torch.cat([scores, sink.expand(len(scores), 1)], dim=-1)` has the sink as its last column; softmax over that.

# %% [markdown]
# ## Patient 5: the router that cannot decide
#
# The trained router of lesson 08, its `router_logits` as the model returned them. Somebody made the logits up to eight
# times as large, and still:

# %%
clinic_panel(patient="router entropy", show="symptom")

# %%
certain = predict(
    "l14-certain-router",
    "This metric is given a router that is certain: probability 1 for one of 8 experts. "
    "It can be log 8 = 2.08 at most. What does it say?",
    ["0", "about 1", "about 2"],
    headless="0",
)
certain

# %%
said = float(lab.patient("router entropy").broken(torch.eye(8)))
certain.reveal(
    min(certain.options, key=lambda option: abs(float(option.split()[-1]) - said)),
    f"{said:.2f}: softmax of a 1 and seven 0 gives the favourite e / (e + 7) = 28 %, whatever the router had decided.",
)

# %% [markdown]
# ### Exercise 4
#
# Models disagree on what they call `router_logits`: some return logits, some return probabilities. Write the entropy so
# that both are right, with no flag. What do you ask of the tensor? The check has logits that look like probabilities at
# first sight, and probabilities that do not at the second.


# %% tags=["exercise"]
def router_entropy(router_logits):
    """router_logits: [N, E], logits or probabilities; returns the mean entropy of a token in nats.

    It came in as p = router_logits.softmax(-1); -(p * p.log()).sum(-1).mean()
    """
    return ...


checks.router_entropy(router_entropy)


# %% tags=["solution"]
def router_entropy(router_logits):
    """router_logits: [N, E], logits or probabilities; returns the mean entropy of a token in nats.

    It came in as p = router_logits.softmax(-1); -(p * p.log()).sum(-1).mean()
    """
    sums = router_logits.sum(-1)
    given = (router_logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    p = router_logits if given else router_logits.softmax(-1)
    return -torch.xlogy(p, p).sum(-1).mean()


checks.router_entropy(router_entropy)

# %% [markdown] tags=["hint"]
# Two conditions make a row of probabilities. Either of them alone can be met by logits.

# %% [markdown] tags=["hint"]
# Not negative, and sums of 1 within what rounding does: `torch.allclose(sums, torch.ones_like(sums), atol=1e-3)`.

# %% [markdown] tags=["hint"]
# A certain router has zeros: `torch.xlogy(p, p)` is 0 there, `p * p.log()` is NaN.

# %% [markdown]
# ## Patient 6: balanced, layer by collapsed layer
#
# Eight layers of eight experts. Layer after layer is made to collapse, each onto an expert of its own. The **balancing
# loss** of lesson 08 is 1 where the load is even and 8 where one expert has everything. Someone concatenates the
# router outputs of all layers and computes it once.

# %%
pooled = predict(
    "l14-pooled-balance",
    "All eight layers have collapsed. What does the loss of the concatenated layers say?",
    ["about 8", "about 4", "about 1"],
    headless="about 8",
)
pooled

# %%
layers = lab.curve("balance over layers").set_index("dose")
said = layers["broken"].iloc[-1]
pooled.reveal(
    min(pooled.options, key=lambda option: abs(float(option.split()[-1]) - said)),
    f"{said:.3f}, as good as it gets, where every single layer has {layers['sound'].iloc[-1]:.2f}.",
)

# %%
clinic_panel(patient="balance over layers", show="symptom")

# %% [markdown]
# ### Exercise 5
#
# Return the loss of every layer, $E \sum_e f_e P_e$: $f_e$ the share of the layer's tokens that chose expert $e$, $P_e$
# the mean of its probability over the layer's tokens.


# %% tags=["exercise"]
def balance_by_layer(p, choice):
    """p: [L, N, E], probabilities; choice: [L, N], the expert of each token; returns [L]."""
    return ...


checks.balance_by_layer(balance_by_layer)


# %% tags=["solution"]
def balance_by_layer(p, choice):
    """p: [L, N, E], probabilities; choice: [L, N], the expert of each token; returns [L]."""
    E = p.shape[-1]
    f = torch.stack([torch.bincount(layer, minlength=E) for layer in choice]) / choice.shape[1]
    return E * (f * p.mean(1)).sum(-1)


checks.balance_by_layer(balance_by_layer)

# %% [markdown] tags=["hint"]
# Do what lesson 08 did for one layer, once for each: `torch.bincount(layer, minlength=E)` for `layer` in `choice`.

# %% [markdown] tags=["hint"]
# `p.mean(1)` is $P$, `[L, E]`. Multiply, sum over experts, times $E$.

# %% [markdown]
# ## The ward round
#
# Two patients are left, with nothing to write. Choose them in the panel, press *symptom* first, and say what is wrong
# before you press *diagnosis*:
#
# - **dead experts**: how many experts of the trained router has nobody visited? It has two **dead** ones; the
#   smaller the batch, the more are reported.
# - **seeds**: two gates of lesson 02, five seeds each. The number was picked because pairing matters there: it shows
#   the arithmetic, and is no finding about gates. (Whoever looks at enough numbers finds one: a ninth patient.)
#
# With *Copy these settings as code* you can keep a case. Any other patient can be seen again here.

# %%
ward = clinic_panel(patient="dead experts")
ward

# %% [markdown]
# ## Take away
#
# | patient | the question that finds it | where the fault did no harm |
# |---|---|---|
# | row entropy | divided by what it could be, *there*? | the last row |
# | first-token attention | what does a head that does not care score? | long sequences |
# | padded batch | which tokens are counted? | a batch without padding |
# | learned sink | do the weights sum to 1, and should they? | a model without a sink |
# | router entropy | does the input hold what its name says? | models that return logits |
# | balance over layers | what was pooled before it was counted? | layers that are even |
# | dead experts | in which window? | a batch as large as the window |
# | seeds | compared with what? | runs that share nothing |
#
# - A metric is tested on inputs whose answer is known, and one of them must be an input on which the usual mistake
#   gives another number.
# - A number without its baseline, its rows and its window is not finished.
# - Names are no evidence. Look into the tensor.
#
# Every record of this lab carries formula, unit and baseline with each number: `gatescope.records.describe(record)`.
# To bring a patient of your own, add a row to `lab.py` of this lesson; the tests will ask for the input on which it is
# wrong, and for the one on which it is not.

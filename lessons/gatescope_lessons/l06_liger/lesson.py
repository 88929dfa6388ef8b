# %% [markdown]
# A transformer is trained, at great cost, with softmax attention. Its cache grows with every token. Could the *same
# weights* be read as a gated recurrence, whose state never grows? Liger (Lan et al. 2025) does that without a single
# new parameter, and mends what breaks with a few adapters. Here you read two trained models that way, repair them, and
# find out, with a control that is easily forgotten, which part of the result does the work.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch
from gatescope import panels, views
from gatescope.models import Decoder
from gatescope.surgery import to_liger, with_lora

from gatescope_lessons.l06_liger import checks, costs, lab, live, runs
from gatescope_lessons.l06_liger.panel import liger_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)  # the models are so small that a second thread only gets in the way
record = lab.published()

# %% [markdown]
# ## The same weights, read in another way
#
# A softmax layer has three maps, $q = x W_Q$, $k = x W_K$, $v = x W_V$. A gated recurrence needs a query, a key, a
# value, and a gate that says what the state keeps. Liger makes the gate **from the key**:
#
# $$a_t = \sigma(k_t)^{1/16}, \qquad
# S_t = \mathrm{diag}(a_t)\, S_{t-1} + \phi(k_t)\, v_t^\top, \qquad r_t = S_t^\top \phi(q_t)$$
#
# $\phi$ is a softmax over the channels of a head, so that no weight is negative. The paper pools the key and has no
# power of 1/16; the authors' code has the power, and a pooling that changes nothing. We follow the code.
#
# **Liger Attention** takes half of that, and half of what the weights were trained for, softmax attention over the
# last $w$ tokens: $o_t = \tfrac12 r_t + \tfrac12\, \mathrm{window}_t$.
#
# ## Exercise 1: a gate that costs nothing


# %% tags=["exercise"]
def gate_from_key(k):
    """k: [T, K], keys as projected. Returns what the state keeps at every token and channel, [T, K]."""
    return ...


checks.gate_from_key(gate_from_key)


# %% tags=["solution"]
def gate_from_key(k):
    """k: [T, K], keys as projected. Returns what the state keeps at every token and channel, [T, K]."""
    return torch.sigmoid(k) ** (1 / 16)


checks.gate_from_key(gate_from_key)

# %% [markdown] tags=["hint"]
# A sigmoid makes a score of a key; the power 1/16 brings it near 1.

# %% [markdown]
# ## Exercise 2: one token of Liger Attention
#
# `keys` and `values` are those of the window, this token's among them, last. Write to the state, read both halves.


# %% tags=["exercise"]
def liger_step(S, q, k, v, a, keys, values):
    """S: [K, K]; q, k, v, a: [K]; keys, values: [w, K]. Returns the new state and the output [K]."""
    return ...


checks.liger_step(liger_step)


# %% tags=["solution"]
def liger_step(S, q, k, v, a, keys, values):
    """S: [K, K]; q, k, v, a: [K]; keys, values: [w, K]. Returns the new state and the output [K]."""
    S = a[:, None] * S + torch.outer(k.softmax(-1), v)
    window = (keys @ q / len(q) ** 0.5).softmax(-1) @ values
    return S, 0.5 * (q.softmax(-1) @ S) + 0.5 * window


checks.liger_step(liger_step)

# %% [markdown] tags=["hint"]
# `a[:, None] * S` decays the rows, `torch.outer(k.softmax(-1), v)` is written. The window is softmax attention as ever.

# %% [markdown]
# ## Convert a trained model
#
# Two trained models: one of lesson 05 that **recalls** (eight keys told with their values, then all asked for), one
# that reads **bytes** of English.

# %%
broken = predict(
    "l06-broken",
    "The first model answers every question. Its weights are read as Liger Attention, nothing is trained. "
    "How many does it answer then?",
    ["nearly all", "about half", "less than a quarter"],
    headless="about half",
)
broken

# %%
trained = runs.teacher("recall", 0)
liger = to_liger(trained, mix=0.5, window=4)
count = sum(p.numel() for p in trained.parameters())
print(f"parameters: {count:,} before, {sum(p.numel() for p in liger.parameters()):,} after")
right = runs.score(liger, "recall")
print(f"answered: {runs.score(trained, 'recall'):.3f} before, {right:.3f} after; guessing a value: {1 / 64:.3f}")
broken.reveal(
    broken.options[0 if right > 0.75 else 1 if right > 0.25 else 2],
    "No number was lost and none added, but they were trained to be read through a softmax over keys.",
)

# %% [markdown]
# ## What decoding carries
#
# This is what one gains. A **cache** keeps a key and a value of every token; Liger keeps a state and a window.
#
# ## Exercise 3: where they cross
#
# A layer has $H$ heads of $K$ channels (keys and values alike) and a window of $w$ tokens. After how many tokens is
# the cache as large as a state in every head together with the window?


# %% tags=["exercise"]
def break_even(H, K, w):
    """Returns the number of tokens after which a cache holds as many numbers as Liger does."""
    return ...


checks.break_even(break_even)


# %% tags=["solution"]
def break_even(H, K, w):
    """Returns the number of tokens after which a cache holds as many numbers as Liger does."""
    return (H * K * K + 2 * H * K * w) / (2 * H * K)


checks.break_even(break_even)

# %% [markdown] tags=["hint"]
# The cache holds 2 H K numbers a token. Liger holds H states of K times K, and 2 H K numbers a token of the window.

# %% [markdown]
# Decoded token by token, the converted model gives the very logits that it gives for the whole sequence at once:

# %%
tokens, _ = runs.TASKS["recall"].batch(1, 1)
decoder = Decoder(liger)
with torch.no_grad():
    stepwise = torch.stack([decoder.step(column) for column in tokens.T], 1)
    print(f"largest difference: {(stepwise - liger(tokens)).abs().max():.1e} (float32)")
print(f"numbers carried after {tokens.shape[1]} tokens: {decoder.carried:,}")

# %%
views.sweep_lines(record[["carried"]].rename(form="variant"), "carried", "xy")

# %%
views.sweep_lines(record[["step_time"]].rename(form="variant"), "step_time", "xy")

# %% [markdown]
# The numbers carried are counted. The times were measured once, on a machine with other work; here is yours:

# %%
for length in (256, 4096) if profile == "quick" else lab.LENGTHS:
    said = [f"{form} {1e3 * costs.seconds(form, length):7.2f} ms" for form in costs.FORMS]
    print(f"one more token after {length:6,}: {', '.join(said)}")

# %% [markdown]
# ## Repair
#
# LoRA (Hu et al. 2021) leaves every weight as it is and learns a small update beside it, $W x + B A x$ with $A$ of 8
# rows: `with_lora` puts such adapters on $W_Q$, $W_K$ and $W_V$ by the `peft` library, as the authors do. Press
# **Resume** and watch. The gate is made from the key, so the adapter of $W_K$ moves the gate as well.

# %%
variant = "liger"
adapted = with_lora(runs.converted(trained, "recall", variant))
learning = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
print(f"{learning:,} numbers learn, {count:,} stay as they are; in large models far fewer than one in a hundred learn")
run = runs.Run("recall", variant, 7)
steps = runs.RECIPES["recall"].steps
trainer = panels.train_live(lambda: runs.repair(run, runs.converted(trained, "recall", variant)), steps=steps)
trainer.run_blocking(max_steps=30 if profile == "quick" else None)
trainer

# %% [markdown]
# ## Which half does the work?
#
# So it was done with five readings of the same trained models, three seeds each:
#
# | reading | what it is |
# |---|---|
# | `liger` | half recurrence, half window: Liger Attention |
# | `recurrent` | the recurrence alone |
# | `window` | the window alone: no state, no gate. **The control** |
# | `ungated` | `liger`, but nothing is forgotten |
# | `fixed` | `liger`, but every token forgets alike, 0.958 |

# %%
who = predict(
    "l06-who",
    "Repaired Liger reads bytes about as well as the trained model. Which half does it?",
    ["mostly the recurrence", "both together, neither alone", "the window would have done it alone"],
    headless="both together, neither alone",
)
who

# %%
views.variant_strip(record, "loss")

# %%
loss = {name: float(record.loss.sel(variant=name).mean()) for name in lab.NAMES}
share = (loss["recurrent"] - loss["window"]) / (loss["recurrent"] - loss["liger"])
who.reveal(
    who.options[2 if share > 0.9 else 1 if share > 0.1 else 0],
    ", ".join(f"{name} {loss[name]:.3f}" for name in ("softmax", "liger", "window", "recurrent")) + " nats a byte.",
)

# %% [markdown]
# To guess the next byte, the last 16 are nearly all one needs. Such data cannot say whether a state remembers. Here is
# a task that asks for what lies further back than the window of 4:

# %%
views.variant_strip(record, "accuracy")

# %%
views.curves(record, "accuracy_curve")

# %% [markdown]
# ## Exercise 4: the gain of the recurrent half
#
# From `record.accuracy` and `record.loss`, compute how much better Liger is than its window alone, one value a seed:
# first in accuracy of recall, then in loss.

# %% tags=["exercise"]
gains = (..., ...)

checks.recurrent_gain(gains, record)

# %% tags=["solution"]
accuracy, loss = record.accuracy, record.loss
gains = (
    accuracy.sel(variant="liger") - accuracy.sel(variant="window"),
    loss.sel(variant="window") - loss.sel(variant="liger"),
)

checks.recurrent_gain(gains, record)

# %% [markdown] tags=["hint"]
# Select two variants and subtract; of a loss, the smaller is the better one.

# %% [markdown]
# ## Turn it yourself
#
# The repaired weights, read at any mix, window and gate; every move runs the model on held-out data. The strip shows
# what the gate of a head *keeps* at each token. The map shows who reads whom: the bright band is the window, the rest
# is what the state still knows.

# %%
panel = liger_panel()
panel

# %% [markdown]
# Try these:
#
# - *Recall*, mix 0, adapters none: which questions can a window of 4 answer? Raise it to *all*: whose model is that?
# - *Recall*, mix 1, with the adapters trained as `liger` and then as `recurrent`: adapters fit the reading they learnt.
# - *Bytes*: move the mix. Where is the loss lowest, and what does that say of the recurrence?
# - *Adapters* none, or a share of 0.5: how much of a repair is enough?
# - Gate *none*: what does forgetting do on a task in which nothing should be forgotten?
#
# ## What gates does one get from keys?
#
# Nobody trained keys to be gates. A row is a head, colour the share of its scores; first as converted, then repaired.

# %%
views.gate_histogram(live.gates("bytes", "none"))

# %%
views.gate_histogram(live.gates("bytes", "liger"))

# %% [markdown]
# A key of 0 gives 0.958, a half-life of 16 tokens; it takes a key of 4.5 to make it a thousand. The
# sixteenth root makes a long memory cheap to keep and costly to leave.
#
# ## What the paper says, and what we measured
#
# The terms (metric, direction, margin, seeds) were written before the adapters were trained. The paper's table 6 has
# the control, too: there the window alone loses 0.05 of perplexity.

# %%
scoreboard("l06_liger")

# %% [markdown]
# Said plainly:
#
# - **No new parameter, constant memory**: true by construction; seeds cannot differ in it. The cache catches up with
#   state and window after 96 tokens of this layer.
# - **Repair on bytes** brings back all that was lost, *shown*. But the window alone had lost next to nothing in the
#   first place: 2.363 nats where the trained model has 2.362. What the repair mended there is the noise of the other
#   half. The recurrence adds 0.017 nats on average, better in every seed, and with three seeds the interval holds 0.
# - **Repair on recall** brings a quarter back, not most: *contradicted* here. What does the remembering is the
#   recurrence (0.33 against 0.02 for the window alone, *shown*), and the window stands in its way: the recurrence alone
#   comes to 0.76. That is a verdict on a mix of one half each, 300 steps and rank 8.
# - **The gate**: on bytes it makes no difference that we can show. On recall, where nothing should be forgotten, no
#   gate at all is better (0.52), and a gate made from keys better than one that forgets alike at every token (0.24).
#
# None of it says that Liger fails on large models. It says which data can tell: a benchmark that a window of 64 answers
# cannot praise a state.
#
# ## Take away
#
# - A gate costs no parameter when the key makes it. A conversion is a reading, not a surgery.
# - A state and a window stay as they are however long the text; a cache does not.
# - Adapters repair what the data ask for. Where data ask for no memory, they need repair none.
# - A hybrid's score says nothing of its parts. Run each part alone before you praise the other.
#
# ## Further reading
#
# - Lan, Sun, Hu, Du, Cheng 2025, *Liger: Linearizing Large Language Models to Gated Recurrent Structures*, arXiv
#   2503.01496
# - Hu et al. 2021, *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685
# - Zhang et al. 2024, *LoLCATs: On Low-Rank Linearizing of Large Language Models*, arXiv 2410.10254
# - Yang, Wang, Shen, Panda, Kim 2023, *Gated Linear Attention Transformers with Hardware-Efficient Training*, arXiv
#   2312.06635

# %% [markdown]
# Attention reads everything, and a decoder keeps everything it has read. Most of it is never needed. Fixed rules
# (the latest keys, and the first few) go a long way, until the text comes back to something old. Can a small gate
# *learn* what need not be read, and what need not be kept? Here you turn both knobs on SmolLM2-135M, whose weights
# stay frozen, and hold two published gates against an oracle, rules without weights, and chance.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch
from gatescope import views
from gatescope.models.smollm2 import load_smollm2
from IPython.display import display

from gatescope_lessons.l07_learning_what_not_to_read import checks, lab, texts, training
from gatescope_lessons.l07_learning_what_not_to_read.live import Reading
from gatescope_lessons.l07_learning_what_not_to_read.panel import blocks_panel, cache_panel
from gatescope_lessons.predictions import predict
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)
record = lab.published()
pretrained = load_smollm2()

# %% [markdown]
# ## A text that returns
#
# Every sequence of this lesson has 160 tokens: a passage of 56, then 48 of something else, then the passage **again**.
# On the first reading nearly all that helps is close by. At the return everything that helps lies about 100 tokens
# back. A rule that drops the far past looks fine on one part and must fail on the other, so the two are told apart.

# %%
story = Reading(pretrained, "story")
print("".join(story.pieces).replace("·", " ").replace("⏎", "\n"))
print({part: f"{loss:.3f} nats a token" for part, loss in zip(texts.PARTS, story.full, strict=True)})

# %% [markdown]
# ## Part one: which blocks to read
#
# **SeerAttention** (Gao et al. 2024) cuts the attention map into blocks and lets a gate say, for every block of
# queries, which blocks of keys are worth reading. A block is read whole or not at all, which is what hardware likes.
#
# $$q_a = \mathrm{rope}\big(\mathrm{mean}_{i \in a}(q_i)\, W_q\big), \quad
# k_b = \mathrm{rope}\big([\max_{j \in b} k_j;\ \min_{j \in b} k_j]\, W_k\big), \quad
# G_{ab} = q_a \cdot k_b / \sqrt{w}$$
#
# The model stays as it is. The gate is **distilled**: its softmax learns, by KL divergence, the largest attention
# weight of every block, divided by the sum of the row.
#
# ### Exercise 1: what the gate is taught


# %% tags=["exercise"]
def block_target(a, block):
    """a: causal weights [T, T], T a multiple of block; returns [T / block, T / block], rows that sum to 1."""
    return ...


checks.block_target(block_target)


# %% tags=["solution"]
def block_target(a, block):
    """a: causal weights [T, T], T a multiple of block; returns [T / block, T / block], rows that sum to 1."""
    largest = a.unflatten(0, (-1, block)).unflatten(2, (-1, block)).amax((1, 3))
    return largest / largest.sum(-1, keepdim=True)


checks.block_target(block_target)

# %% [markdown] tags=["hint"]
# Two `unflatten`s make four axes of two: block and place of the query, block and place of the key. Reduce the places.

# %% [markdown]
# ### Turn it
#
# The gates here were distilled on 32 sequences of Python's help topics, made to return in the same way, in half a
# minute a seed. Each move of *Blocks a row*, *Chosen by* or *Text* reads the text again under the new mask, through the
# block-sparse operator. In the picture colour is what was read and grey what was not; look for dark grey.
#
# - *oracle*: the true block maxima, which cost the full attention that was to be saved
# - *window*: the first block and the latest ones, whatever the text says
# - *pooled means*: mean query times mean key, a heuristic without weights (as in MInference)
# - *chance*: as many blocks of every row at random; all of them always read the first block and their own

# %%
reader = blocks_panel(pretrained, layer=10)
reader

# %% [markdown]
# Try the ends: one block a row leaves the first and the own one; forty leave nothing out and must lose exactly nothing.
#
# ### Loss against sparsity

# %%
guess = predict(
    "l07-blocks",
    "With 8 of up to 40 blocks a row, when the passage returns: who loses least beside the oracle?",
    ["the learned gate", "the window", "pooled means", "chance"],
    headless="pooled means",
)
guess

# %%
display(views.sweep_lines(lab.curves(record, "block_loss", "first time"), "block_loss"))
display(views.sweep_lines(lab.curves(record, "block_loss", "again"), "block_loss"))

# %%
rivals = ("learned gate", "window", "pooled means", "chance")
best = lab.least(record, "block_loss", "again", rivals, share=lab.share_of(lab.KEEP))
guess.reveal(
    {"learned gate": "the learned gate", "window": "the window"}.get(best, best),
    "Means over five texts and three seeds: "
    + ", ".join(f"{name} {lab.loss_of(record, 'block_loss', name, 'again').mean():.3f}" for name in rivals)
    + " nats a token above full attention.",
)

# %% [markdown]
# Two things to take from the curves. On the first reading the window is close to all others: there is little to learn.
# At the return it breaks, and whatever looks at the *content* of queries and keys does not. And the gate is held
# against a hard rival: pooled means need no training at all.
#
# ## Part two: which keys to keep
#
# A block mask saves time; the keys are still stored. An **eviction** policy throws them away for good. All policies
# here are one function with different scores: the latest keys are safe, of the others the best stay, and what is gone
# never comes back.
#
# | policy | score of a key | safe |
# |---|---|---|
# | window | its position | all of the budget |
# | StreamingLLM (Xiao et al. 2023) | its position; the first 4 are never dropped | budget - 4 latest |
# | H2O (Zhang et al. 2023) | attention received so far, summed | half the budget |
# | Attention-Gate (Zeng et al. 2024) | a learned flag, from the context up to the token | half the budget |
# | chance | a random number | half the budget |
#
# ### Exercise 2: who stays?


# %% tags=["exercise"]
def stays(scores, budget, latest):
    """scores: [S]; returns [S] of bool: the ``latest`` last keys and the best others, ``budget`` in all."""
    return ...


checks.stays(stays)


# %% tags=["solution"]
def stays(scores, budget, latest):
    """scores: [S]; returns [S] of bool: the ``latest`` last keys and the best others, ``budget`` in all."""
    ranked = scores.clone()
    ranked[len(scores) - latest :] = torch.inf
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[ranked.topk(budget).indices] = True
    return kept


checks.stays(stays)

# %% [markdown] tags=["hint"]
# Make the latest unbeatable, then take the best `budget` of all.

# %% [markdown]
# The Attention-Gate has to say what will be needed *before* anybody asks. In every layer a tiny causal attention (4
# channels) reads the residual stream and gives each key-value head a flag for each token. It was trained for 30 steps
# through the language-model loss under its own evictions, the model frozen. A dropped key has no gradient of its own,
# so a **straight-through** estimator asks what reading it would have done to the loss.
#
# Move *Keys kept*: the text is read again as a decoder with that cache would, which makes room every 8 tokens. Colour
# says how many heads still hold a token at the end; *Layer shown* changes the picture alone.

# %%
cache = cache_panel(pretrained)
cache

# %% [markdown]
# Start with *window, no sink* at 32 keys, then *StreamingLLM*: four tokens make the difference, as in lesson 01. Then
# *H2O* and *Attention-Gate*: where do they keep something of the first passage?
#
# ### Loss against budget

# %%
kept = predict(
    "l07-cache",
    "32 keys a head, text read for the first time: who loses least?",
    ["Attention-Gate", "StreamingLLM", "H2O", "chance"],
    headless="Attention-Gate",
)
kept

# %%
display(views.sweep_lines(lab.curves(record, "cache_loss", "first time"), "cache_loss"))
display(views.sweep_lines(lab.curves(record, "cache_loss", "again"), "cache_loss"))

# %%
shown = ("Attention-Gate", "StreamingLLM", "H2O", "chance")
kept.reveal(
    lab.least(record, "cache_loss", "first time", shown, keys_kept=lab.BUDGET),
    "Means over five texts and three seeds: "
    + ", ".join(f"{name} {lab.loss_of(record, 'cache_loss', name, 'first time').mean():.3f}" for name in shown)
    + " nats a token above all keys.",
)

# %% [markdown]
# ### Exercise 3: the bias of accumulated attention
#
# The authors of Attention-Gate object to H2O that its score is biased. See it for yourself: under causal attention an
# older key has had more queries to collect from. Return the *mean* attention that each key received, by query that
# could read it.


# %% tags=["exercise"]
def mean_received(a):
    """a: causal weights [T, T] of one head; returns [T]."""
    return ...


checks.mean_received(mean_received)


# %% tags=["solution"]
def mean_received(a):
    """a: causal weights [T, T] of one head; returns [T]."""
    return a.sum(0) / torch.arange(len(a), 0, -1)


checks.mean_received(mean_received)

# %% [markdown] tags=["hint"]
# How many queries can read key 0? And the last key?

# %% [markdown]
# ## How the gates learnt
#
# The divergence of the block gates and the loss of the model under the eviction gates, first and last tenth of
# training. The second is noisy, since every step has another text and budget.

# %%
for kind, unit in zip(training.KINDS, ("KL divergence, nats", "loss under eviction, nats a token"), strict=True):
    for seed in training.SEEDS:
        found = training.losses(kind, seed)
        tenth = max(1, len(found) // 10)
        first, last = sum(found[:tenth]) / tenth, sum(found[-tenth:]) / tenth
        print(f"{kind:7} seed {seed}: {first:.3f} to {last:.3f} ({unit})")

# %% [markdown]
# ## What the papers say, and what we measured
#
# The terms (metric, direction, margin, replicates) were written before the record was made. What the papers say is
# taken from their abstracts, and for SeerAttention from the model card of its authors.

# %%
scoreboard("l07_learning_what_not_to_read")

# %% [markdown]
# Said plainly:
#
# - **Static patterns: shown, because the text comes back.** With 36 % of the blocks the gate loses 0.04 nats on the
#   first reading and 0.05 at the return; the window loses nothing and 2.7. On text that never returns the window would
#   have won.
# - **Heuristics: not shown.** Products of means do as well as the distilled gate, text by text sometimes better,
#   without a single weight. At 23 % the gate is a little ahead at the return and clearly behind on the first reading.
#   Ours is narrow (16 channels, not 128), and blocks of 4 tokens are kind to a mean: in 64 tokens a strong key drowns.
# - **The oracle is one of attention, not of loss.** On the first reading the window and the means lose less than the
#   true block maxima do. What has the largest weight is often the sink, and dropping it is not the same as dropping
#   what the prediction needs.
# - **Attention-Gate: contradicted at this scale.** It beats chance, so the training does reach the flags, and it loses
#   clearly to StreamingLLM and H2O. Thirty sequences are no continual pre-training: look at the first token in the
#   panel, which about a third of the heads still hold, and which StreamingLLM keeps by decree. Read this as a statement
#   about thirty steps.
# - **Nobody keeps what will return.** H2O, the best at the return, still loses 1.9 nats of what full attention had
#   gained. When the keys were dropped, nothing in the text said that they would be asked for again.
# - **Eviction that improves the model: contradicted** for the gate. StreamingLLM at 32 keys gains 0.016 nats on the
#   first reading, too little to make anything of.
#
# ## Take away
#
# - Sparsity is only worth something against a control at the same sparsity. Here: oracle, window, heuristic, chance.
# - What to *read* can be decided when the query is there. What to *keep* must be decided before, and that is harder.
# - Whether a policy is good depends on whether the text comes back. Average over one kind of text and you see one
#   answer.
# - Teach the maximum of a block, not its mean; protect the first tokens, whatever else you drop.
#
# ## Further reading
#
# - Gao et al. 2024, *SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs*, arXiv 2410.13276
# - Zeng et al. 2024, *In-context KV-Cache Eviction for LLMs via Attention-Gate*, arXiv 2410.12876
# - Xiao et al. 2023, *Efficient Streaming Language Models with Attention Sinks*, arXiv 2309.17453
# - Zhang et al. 2023, *H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models*, arXiv
#   2306.14048
# - Jiang et al. 2024, *MInference 1.0: Accelerating Pre-filling for Long-Context LLMs via Dynamic Sparse Attention*,
#   arXiv 2407.02490

# %% [markdown]
# `out = y * torch.sigmoid(logit)` is one line of PyTorch and, on a GPU, two kernels: one writes the sigmoid to memory,
# the next reads it back. A **fused** kernel does both while the numbers are in registers. Here you write such kernels
# in Triton, from one block of numbers up to causal attention with the gate at its end, and the backward pass. Every
# load and store is watched: you see which program touches which element, and count the bytes.
#
# No GPU is needed. Triton's *interpreter* runs the same source on the CPU, one program after another, in numpy; it is
# slow and exact. At the end your kernel is compiled for two GPUs that are not here.

# %% tags=["parameters"]
profile = "quick"

# %% [markdown]
# Elsewhere the next cell would read `import triton` and `import triton.language as tl`. The interpreter must be chosen
# before Triton is imported, and `interpreter()` sees to that.

# %%
import torch
from gatescope import views

from gatescope_lessons.l15_fused_gate_kernel import checks, lab
from gatescope_lessons.l15_fused_gate_kernel.interpreter import absent, available, interpreter
from gatescope_lessons.l15_fused_gate_kernel.panel import access_panel
from gatescope_lessons.predictions import predict

torch.set_num_threads(1)
here = available()
triton, tl = interpreter()
None if here else absent()

# %% [markdown]
# ## What a kernel is
#
# You start a kernel on a grid of **programs**. All run the same source; each asks `tl.program_id(axis)` which one it
# is and does its own block. A pointer such as `x_ptr` is the address of the first element, and `x_ptr + i` with
# `i = tl.arange(0, BLOCK)` is a block of addresses. `BLOCK` is a power of two and known when the kernel is compiled;
# `n` is not, so the last block reaches past the end. A **mask** says which lanes have an element:
# `tl.load(x_ptr + i, mask=i < n, other=0.0)`. A lane that is masked out has no value unless `other` gives it one.
#
# Nothing checks an address on a GPU. A load past the end reads a neighbour's numbers, a store past the end destroys
# them, and the result often looks right. So the checks here watch every address, and say which mistake gives such
# addresses.
#
# ## Exercise 1: a block
#
# `out = sigmoid(x)` of `n` numbers on a grid of `ceil(n / BLOCK)` programs. The input may be float16: `tl.sigmoid`
# takes float32, so convert with `.to(tl.float32)` right after the load. The store converts back by itself.


# %% tags=["exercise"]
@triton.jit
def sigmoid_block(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out[i] = sigmoid(x[i]) for i < n."""
    ...


checks.sigmoid_block(sigmoid_block)


# %% tags=["solution"]
@triton.jit
def sigmoid_block(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out[i] = sigmoid(x[i]) for i < n."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, tl.sigmoid(x), mask=i < n)


checks.sigmoid_block(sigmoid_block)

# %% [markdown] tags=["hint"]
# Program p begins at element `p * BLOCK`: `i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)`.

# %% [markdown] tags=["hint"]
# The last block reaches past `n`: `mask=i < n`, in the load and in the store.

# %% [markdown]
# Your kernel under watch: an element has the colour of the first program that touched it, whose number stands where it
# begins. Take a mask away and run both cells again.

# %%
numbers = {"x": torch.linspace(-3, 3, 37), "out": torch.zeros(37)}
views.access_map(lab.watch(sigmoid_block, (3,), numbers, "x", "out", 37, BLOCK=16)) if here else None

# %% [markdown]
# ## Exercise 2: a tile, and strides
#
# Now the gate itself, over a matrix in tiles of `BT` x `BV`, on a grid of two axes: axis 0 counts tiles of rows, axis
# 1 tiles of columns. None of the three tensors need be contiguous: y may be a slice of something wider, logit a
# transpose. All that a kernel knows of that are the **strides**: element (t, v) of y lies at
# `y_ptr + t * y_t + v * y_v`.


# %% tags=["exercise"]
@triton.jit
def gate_tile(
    y_ptr, logit_ptr, out_ptr, T, V, y_t, y_v, logit_t, logit_v, out_t, out_v, BT: tl.constexpr, BV: tl.constexpr
):
    """out[t, v] = y[t, v] sigmoid(logit[t, v]) for t < T, v < V; X_t and X_v are the strides of X."""
    ...


checks.gate_tile(gate_tile)


# %% tags=["solution"]
@triton.jit
def gate_tile(
    y_ptr, logit_ptr, out_ptr, T, V, y_t, y_v, logit_t, logit_v, out_t, out_v, BT: tl.constexpr, BV: tl.constexpr
):
    """out[t, v] = y[t, v] sigmoid(logit[t, v]) for t < T, v < V; X_t and X_v are the strides of X."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    v = tl.program_id(1) * BV + tl.arange(0, BV)[None, :]
    there = (t < T) & (v < V)
    y = tl.load(y_ptr + t * y_t + v * y_v, mask=there, other=0.0).to(tl.float32)
    logit = tl.load(logit_ptr + t * logit_t + v * logit_v, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + t * out_t + v * out_v, y * tl.sigmoid(logit), mask=there)


checks.gate_tile(gate_tile)

# %% [markdown] tags=["hint"]
# Two indices: `t` as a column, `(... + tl.arange(0, BT))[:, None]`, and `v` as a row, `[None, :]`. They broadcast.

# %% [markdown] tags=["hint"]
# The mask is `(t < T) & (v < V)`, and every pointer has its own strides.

# %% [markdown]
# ## What fusing saves
#
# PyTorch's line would run as two kernels: *gate = sigmoid(logit)*, then *out = y gate*, with the gate in memory in
# between.

# %%
saved = predict(
    "l15-fusing",
    "One fused kernel instead of two. Which share of the bytes still moves between memory and the processor?",
    ["all of them", "four fifths", "three fifths", "a third"],
    headless="a third",
)
saved

# %% [markdown]
# The panel runs the kernels of your choice at every move and counts what they ask for. Look at *two kernels*, then at
# the three mistakes: hatched cells belong to no tensor, a strong edge marks what is written twice. Light one program
# alone. Try the ends: tiles of one element, a tile far larger than the matrix.

# %%
panel = access_panel()
panel

# %%
if here:
    counted = {name: lab.watch_gate(lab.Setting(name)) for name in ("two kernels", "fused")}
    moved = lab.bytes_table(counted)
    shares = {1.0: "all of them", 0.8: "four fifths", 0.6: "three fifths", 1 / 3: "a third"}
    nearest = min(shares, key=lambda share: abs(share - moved["share"].iloc[1]))
    told = saved.reveal(
        shares[nearest],
        f"Counted: {moved['bytes moved'].iloc[1]:,} bytes of {moved['bytes moved'].iloc[0]:,}. The gate went to memory "
        "and came back; y, logit and out move in both.",
    )
told if here else None

# %%
moved.style.hide(axis="index").format({"share": "{:.2f}"}) if here else None

# %% [markdown]
# Such kernels compute next to nothing per byte, so on a GPU their time is that of their bytes. Tiles do not change the
# bytes, only how many lanes are idle at the edges. Two things the count leaves out: a GPU moves memory in lines of 32
# bytes or more, so a stride that skips costs more than here, and caches may answer a second read.
#
# ## Exercise 3: a softmax in blocks
#
# The gate stands after attention, and attention needs a softmax over keys that do not fit into one block. **Online
# softmax** goes through the row once and keeps three numbers:
#
# $$m' = \max(m, \max_s x_s), \qquad z' = z\, e^{m - m'} + \sum_s e^{x_s - m'}, \qquad
# a' = a\, e^{m - m'} + \sum_s e^{x_s - m'} v_s$$
#
# When a block brings a larger maximum, what was summed so far was measured against the old one and is *rescaled*. At
# the end the average is $a / z$. One row a program, blocks of `BLOCK` keys; write it for one value a key.


# %% tags=["exercise"]
@triton.jit
def online_softmax(score_ptr, value_ptr, out_ptr, S, score_t, BLOCK: tl.constexpr):
    """out[t] = sum over s < S of softmax(score[t])[s] value[s]; rows of score are score_t apart."""
    ...


checks.online_softmax(online_softmax)


# %% tags=["solution"]
@triton.jit
def online_softmax(score_ptr, value_ptr, out_ptr, S, score_t, BLOCK: tl.constexpr):
    """out[t] = sum over s < S of softmax(score[t])[s] value[s]; rows of score are score_t apart."""
    t = tl.program_id(0)
    top, total, acc = -float("inf"), 0.0, 0.0
    for start in range(0, S, BLOCK):
        s = start + tl.arange(0, BLOCK)
        x = tl.load(score_ptr + t * score_t + s, mask=s < S, other=-float("inf"))
        value = tl.load(value_ptr + s, mask=s < S, other=0.0)
        higher = tl.maximum(top, tl.max(x, 0))
        shrink = tl.exp(top - higher)
        p = tl.exp(x - higher)
        total = total * shrink + tl.sum(p, 0)
        acc = acc * shrink + tl.sum(p * value, 0)
        top = higher
    tl.store(out_ptr + t, acc / total)


checks.online_softmax(online_softmax)

# %% [markdown] tags=["hint"]
# Start at `top = -float("inf")`, `total = 0.0`, `acc = 0.0`; the loop is `for start in range(0, S, BLOCK):`.

# %% [markdown] tags=["hint"]
# Keys from `S` on are loaded as `-inf`, so that `tl.exp` makes 0 of them.

# %% [markdown] tags=["hint"]
# `higher = tl.maximum(top, tl.max(x, 0))`, `shrink = tl.exp(top - higher)`; both sums times `shrink`, then add.

# %% [markdown]
# ## Exercise 4: attention with the gate inside
#
# Put it together. One head, all tensors `[T, D]` and contiguous. A program has a tile of `BM` queries, goes through
# tiles of `BN` keys, and keeps `top` and `total` for each query and `acc` for each query and channel. A query sees the
# keys up to its own (`s <= t`). After the loop the average is divided out, multiplied by `sigmoid(logit)` of the
# query's row, and stored: y itself never goes to memory.
#
# `tl.dot(a, b)` multiplies matrices and sums in float32; its operands have one dtype, so write
# `tl.dot(p.to(v.dtype), v)`. Give it `input_precision="ieee"`, or a GPU rounds float32 to TF32.


# %% tags=["exercise"]
@triton.jit
def gated_attention(
    q_ptr, k_ptr, v_ptr, logit_ptr, out_ptr, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """out = softmax(scale q k^T, causal) v sigmoid(logit), all [T, D]; program_id(0) counts tiles of queries."""
    ...


checks.gated_attention(gated_attention)


# %% tags=["solution"]
@triton.jit
def gated_attention(
    q_ptr, k_ptr, v_ptr, logit_ptr, out_ptr, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """out = softmax(scale q k^T, causal) v sigmoid(logit), all [T, D]; program_id(0) counts tiles of queries."""
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    rows, there = t[:, None] * D + d[None, :], t[:, None] < T
    q = tl.load(q_ptr + rows, mask=there, other=0.0)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for start in range(0, tl.minimum(T, (tl.program_id(0) + 1) * BM), BN):
        s = start + tl.arange(0, BN)
        keys, known = s[:, None] * D + d[None, :], s[:, None] < T
        k = tl.load(k_ptr + keys, mask=known, other=0.0)
        v = tl.load(v_ptr + keys, mask=known, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((s[None, :] <= t[:, None]) & (s[None, :] < T), scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp(top - higher)
        p = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher
    logit = tl.load(logit_ptr + rows, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, acc / total[:, None] * tl.sigmoid(logit), mask=there)


checks.gated_attention(gated_attention)

# %% [markdown] tags=["hint"]
# `rows = t[:, None] * D + d[None, :]` addresses a tile of q, logit and out; keys and values have `s` in place of `t`.

# %% [markdown] tags=["hint"]
# The causal mask goes onto the scores, before the maximum:
# `tl.where(s[None, :] <= t[:, None], scores, -float("inf"))`.

# %% [markdown] tags=["hint"]
# `acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)`; after the loop `acc / total[:, None]`, times the gate,
# once.

# %% [markdown]
# The picture below is of the lesson's own kernel. Keys are read again by every tile of queries that may see them,
# which is where the bytes of attention go. The loop ends at the diagonal; one that goes through all keys and masks
# them gives the same numbers and reads more. The table has both, and the gate in a second kernel.

# %%
views.access_map(lab.watch_attention("fused")) if here else None

# %%
attention = (
    {
        "gate inside": lab.watch_attention("fused"),
        "gate inside, all keys read": lab.watch_attention("fused", early=False),
        "gate in a second kernel": lab.watch_attention("after"),
    }
    if here
    else {}
)
lab.bytes_table(attention).style.hide(axis="index").format({"share": "{:.2f}"}) if here else None

# %% [markdown]
# The longer the text, the more the keys weigh and the less the gate does: its bytes grow with T, those of the keys
# with T² / BM.
#
# ## Exercise 5: backward
#
# For `out = y g` with `g = sigmoid(logit)` and `dout` given, write the gradients of y and of logit in one kernel.


# %% tags=["exercise"]
@triton.jit
def gate_backward(dout_ptr, y_ptr, logit_ptr, dy_ptr, dlogit_ptr, n, BLOCK: tl.constexpr):
    """dy and dlogit of out = y sigmoid(logit), n numbers each."""
    ...


checks.gate_backward(gate_backward)


# %% tags=["solution"]
@triton.jit
def gate_backward(dout_ptr, y_ptr, logit_ptr, dy_ptr, dlogit_ptr, n, BLOCK: tl.constexpr):
    """dy and dlogit of out = y sigmoid(logit), n numbers each."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    dout = tl.load(dout_ptr + i, mask=there, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + i, mask=there, other=0.0).to(tl.float32)
    g = tl.sigmoid(tl.load(logit_ptr + i, mask=there, other=0.0).to(tl.float32))
    tl.store(dy_ptr + i, dout * g, mask=there)
    tl.store(dlogit_ptr + i, dout * y * g * (1 - g), mask=there)


checks.gate_backward(gate_backward)

# %% [markdown] tags=["hint"]
# The derivative of the sigmoid is `g * (1 - g)`; `out` is linear in y, with slope g.

# %% [markdown]
# The forward pass knew g. Should it have written it down, so that the backward pass need not compute a sigmoid again?

# %%
again = predict(
    "l15-keep-the-gate",
    "Keep g in memory for the backward pass: forward and backward together then move",
    ["fewer bytes", "as many bytes", "more bytes"],
    headless="fewer bytes",
)
again

# %%
if here:
    training = lab.bytes_table(
        {"g computed again": lab.watch_training(keep=False), "g kept": lab.watch_training(keep=True)}
    )
    change = training["share"].iloc[1] - 1
    option = again.options[0 if change < 0 else 1 if change == 0 else 2]
    told = again.reveal(
        option,
        f"Counted: {100 * change:+.1f} %. Backward reads g where it would read logit, so nothing is saved there, and "
        "forward has written it. It also lies in memory until then.",
    )
told if here else None

# %% [markdown]
# The fused kernel of exercise 4 has given y away, and `dlogit` needs it. Dividing `out` by g brings it back, except
# where the gate is nearly shut; so this project's op writes y down when, and only when, a gradient of the gate is
# asked for. It rounds to the inputs' dtype, and costs T D elements: a choice, as every fusion is.
#
# ## The same kernel on a GPU
#
# Triton compiles for machines that are not here. The table is read from the binaries: **registers** a thread takes,
# what **spilled** out of them to slow memory, matrix products that run on no tensor core, and the **occupancy**, the
# share of a multiprocessor's warps that can be resident. The interpreter cannot tell any of this: a kernel may be
# right and spill.

# %%
mine = None  # once exercise 4 is passed: mine = gated_attention
lab.compiled(mine) if here else None

# %% [markdown]
# Give it larger tiles, `lab.compiled(mine, BM=128, BN=128)`, and watch the registers run out.
# `gatescope compile-report` does this to every kernel of the project, for four GPUs, and holds each to a budget. Their
# source is in `kernels/gatescope_kernels/ops/gated_attention/`: it is exercise 4 with statistics, windows, grouped
# heads and a learned sink. What no binary tells is time; for that, `gatescope bench` on a machine that has the GPU.
#
# ## Further reading
#
# - Milakov and Gimelshein, *Online normalizer calculation for softmax*, 2018, arXiv:1805.02867: exercise 3.
# - Dao et al., *FlashAttention*, 2022, arXiv:2205.14135: exercise 4, and why bytes are what counts.
# - Tillet, Kung and Cox, *Triton*, 2019: the language. Sasha Rush's *Triton Puzzles* taught this lesson its form.

# %% [markdown]
# Gatescope shows what gates do. In every lesson you predict, turn a control, see what a model does, and put what papers
# say to a test that could fail. Nothing here is a recording: each picture is computed when you look at it, or drawn
# from measurements that this project made and lets you repeat.
#
# Run the cells from the top: **Shift + Enter** runs one and goes on to the next.

# %% tags=["parameters"]
profile = "quick"

# %% [markdown]
# ## The lessons
#
# Left to right, lessons build on each other. Start with any card that has no arrow into it; what you have passed is
# kept on this machine alone, in `work/.progress.jsonl`, and shown here whenever you run the cell.

# %%
from gatescope_lessons.course_map import course_map

course_map()

# %% [markdown]
# ## This machine
#
# Not everything need be *ok*: a *note* says what works less well, *missing* what has to be mended, and how.

# %% tags=["local"]
import pandas as pd
from gatescope import doctor

machine = pd.DataFrame(doctor.report())
left = [{"selector": "th, td", "props": "text-align: left"}]
machine.style.hide(axis="index").set_table_styles(left)

# %% [markdown]
# ## How a lesson goes, in five minutes
#
# **Predict.** An attention head asks a question, its *query*, and every token gets a score for how well it answers.
# Softmax turns the scores into weights, and the head reads that mixture. Now the query finds nothing: all five tokens
# score the same.

# %%
import torch

from gatescope_lessons.l00_start import checks
from gatescope_lessons.l00_start.lab import read_row
from gatescope_lessons.l00_start.panel import row_panel
from gatescope_lessons.predictions import predict

guess = predict(
    "l00-nothing-found",
    "All scores are 0. How much weight does softmax give out in all?",
    ["0: there is nothing to read", "about a half", "1, as always"],
    headless="0: there is nothing to read",
)
guess

# %% [markdown]
# **Turn a control.** The gate stands wide open. Raise the score of the first token and watch where the weight goes;
# lower it again and close the gate. *Reset* brings the first picture back, and *Copy these settings as code* keeps
# what you have found.

# %%
panel = row_panel()
panel

# %%
total = float(read_row(first=0.0, gate=6.0)["weight"].sum())
guess.reveal(
    guess.options[2] if abs(total - 1) < 1e-9 else guess.options[0],
    "Weights of softmax sum to 1 whatever the scores are, so a head that wants nothing must put its weight somewhere. "
    "Trained models put it on the first token: an attention sink, which lesson 01 finds in a real model.",
)

# %% [markdown]
# **Check an answer.** Replace the `...` and run the cell. A wrong answer is told what is wrong with it; a few wrong
# ones in a row get more hints.


# %% tags=["exercise"]
def gated_row(scores, gate):
    """scores: [n], gate: a number (logit); returns what the head reads of every token, [n]."""
    return ...


checks.gated_row(gated_row)


# %% tags=["solution"]
def gated_row(scores, gate):
    """scores: [n], gate: a number (logit); returns what the head reads of every token, [n]."""
    return torch.sigmoid(torch.as_tensor(gate)) * scores.softmax(0)


checks.gated_row(gated_row)

# %% [markdown] tags=["hint"]
# Softmax over the scores first; the gate multiplies what comes out.

# %% [markdown] tags=["hint"]
# `torch.sigmoid(torch.as_tensor(gate)) * scores.softmax(0)`

# %% [markdown]
# **Read the verdicts.** Every lesson ends with what papers claim and what was measured here: *shown*, *not shown at
# this scale*, or *contradicted*, each with its interval over seeds or texts. Not all of them are shown, and those are
# not the dull ones.
#
# ## Words
#
# In the lessons a word that is new stands in bold; put the mouse on it to see what it means, or look it up here.

# %%
from gatescope_lessons.glossary import glossary

glossary()

# %% [markdown]
# Formulas and shapes are short because their letters keep their meaning: $T$ tokens, $H$ heads, $D$ channels, in every
# lesson. Where a paper needs a letter for something else, its lesson is named.

# %%
from gatescope_lessons.symbols import symbol_table

symbol_table()

# %% [markdown]
# ## Where to go
#
# Run the map again, then open the card with the thick frame: for a newcomer
# [Where does attention go?](01_where_attention_goes.ipynb)
#
# | you want to | do this |
# |---|---|
# | start a notebook afresh | *Kernel, Restart Kernel and Run All Cells* |
# | see the answers | the same notebook in `solutions/` |
# | get back an untouched copy | rename or delete yours in `work/`, then `make lab` |
# | see your progress as a table | `gatescope progress`, with `--csv FILE` for a spreadsheet |
# | measure a model of your own | lesson 13, or `gatescope scan` |
# | know what a refusal means | read it to its end: the last part is the next step |

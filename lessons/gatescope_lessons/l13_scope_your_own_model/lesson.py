# %% [markdown]
# Point the instruments at a model of your own.

# %% tags=["parameters"]
profile = "quick"

# %%
import math

import torch

from gatescope_lessons.l13_scope_your_own_model import checks
from gatescope_lessons.scoreboard import scoreboard

# %% [markdown]
# ## Exercise 1: how sure is a router?
#
# Return the entropy of a router, token by token, as a share of the largest value it can have.


# %% tags=["exercise"]
def router_entropy(p):
    """p: [T, E], probabilities; returns a number from 0 to 1."""
    return ...


checks.router_entropy(router_entropy)


# %% tags=["solution"]
def router_entropy(p):
    """p: [T, E], probabilities; returns a number from 0 to 1."""
    return -torch.special.xlogy(p, p).sum(-1).mean() / math.log(p.shape[-1])


checks.router_entropy(router_entropy)

# %% [markdown]
# ## What the papers say, and what we measured

# %%
scoreboard("l13_scope_your_own_model")

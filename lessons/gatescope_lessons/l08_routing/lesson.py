# %% [markdown]
# A router sends each token to a few of many experts, and learns where to from the experts it happened to ask. The busy
# ones learn, the idle ones do not. Here you train eight experts on eight clusters, see who starves, and what helps.

# %% tags=["parameters"]
profile = "quick"

# %%
import torch

from gatescope_lessons.l08_routing import checks
from gatescope_lessons.scoreboard import scoreboard

torch.set_num_threads(1)

# %% [markdown]
# ## Exercise 1: the loss that asks for balance


# %% tags=["exercise"]
def switch_loss(p, choice):
    """p: [tokens, E]; choice: [tokens], the expert of each token."""
    return ...


checks.switch_loss(switch_loss)


# %% tags=["solution"]
def switch_loss(p, choice):
    """p: [tokens, E]; choice: [tokens], the expert of each token."""
    E = p.shape[1]
    f = torch.bincount(choice, minlength=E) / len(choice)
    return E * (f * p.mean(0)).sum()


checks.switch_loss(switch_loss)

# %% [markdown]
# ## What the papers say, and what we measured

# %%
scoreboard("l08_routing")

# %% [markdown]
# In SmolLM2, one number in a hidden state is 13,000 times as large as the median of the others.

# %% tags=["parameters"]
profile = "quick"

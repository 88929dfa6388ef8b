"""Activation sparsity against loops over tokens and channels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import ActivationSparsity


def hidden(B=2, T=9, F=12, seed=0):
    return torch.randn(B, T, F, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0, 0.01, 0.2])
@pytest.mark.parametrize("apply", [torch.relu, torch.nn.functional.gelu, torch.sign], ids=["relu", "gelu", "sign"])
def test_every_number_follows_its_definition(measure, apply, threshold):
    a = apply(hidden())
    a[..., 5] = 0
    tokens = [token.tolist() for token in a.flatten(0, 1)]
    zeros = [value == 0 for token in tokens for value in token]
    small = [[abs(value) <= threshold * max(map(abs, token)) for value in token] for token in tokens]
    hoyer = [
        (math.sqrt(12) - sum(map(abs, token)) / math.sqrt(sum(x * x for x in token))) / (math.sqrt(12) - 1)
        for token in tokens
    ]
    here = measure(ActivationSparsity(threshold), mlps=[a]).sel(layer=0)
    assert here.activation_zeros == pytest.approx(np.mean(zeros))
    assert here.activation_small == pytest.approx(np.mean(small))
    assert here.activation_hoyer == pytest.approx(np.mean(hoyer))
    assert here.neurons_silent == pytest.approx(np.mean(np.all(small, axis=0)))
    assert here.neurons_silent.attrs["threshold"] == threshold
    assert here.neurons_silent.attrs["window_tokens"] == 18


def test_a_neuron_fires_once_in_the_window(measure):
    a = torch.ones(1, 4, 6)
    a[..., 2:] = 0
    first, second = a.clone(), a.clone()
    second[0, 3, 4] = 1
    here = measure(ActivationSparsity(), {"mlps": [first]}, {"mlps": [second]})
    assert here.neurons_silent.item() == 3 / 6


@pytest.mark.parametrize(("make", "value"), [(lambda: torch.ones(1, 3, 8), 0.0), (lambda: torch.eye(8)[None], 1.0)])
def test_hoyer_runs_from_all_alike_to_one_channel(measure, make, value):
    assert measure(ActivationSparsity(), mlps=[make()]).activation_hoyer.item() == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("F", [4, 256])
def test_the_hoyer_baseline_is_that_of_normal_values(measure, F):
    here = measure(ActivationSparsity(), mlps=[hidden(T=4000, F=F)])
    assert here.activation_hoyer.item() == pytest.approx(here.activation_hoyer.attrs["baseline_value"], rel=0.02)


def test_tokens_that_use_nothing_have_no_hoyer_index(measure):
    a = torch.relu(hidden())
    alone = measure(ActivationSparsity(), mlps=[a[:, 1:]])
    a[:, 0] = 0
    both = measure(ActivationSparsity(), mlps=[a])
    assert both.activation_hoyer.item() == pytest.approx(alone.activation_hoyer.item())
    with pytest.raises(Refusal, match="wanted activations that are not all 0, got none in layer 0"):
        measure(ActivationSparsity(), mlps=[torch.zeros(1, 3, 4)])


def test_what_cannot_be_measured_is_refused(measure):
    with pytest.raises(Refusal, match="two hidden channels or more"):
        measure(ActivationSparsity(), mlps=[hidden(F=1)])
    with pytest.raises(Refusal, match=r"a threshold in \[0, 1\), got 1"):
        ActivationSparsity(1)


def test_nan_is_named_with_its_layer(measure):
    bad = hidden()
    bad[0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"ActivationSparsity: .* in layer 1"):
        measure(ActivationSparsity(), mlps=[hidden(), bad])

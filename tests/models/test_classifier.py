"""The classifier against its equation, and what it shows."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.models import Classifier, ClassifierConfig, accuracy
from gatescope.probes import ActivationSparsity
from gatescope.scope import Scope
from gatescope.tasks import digits

IMAGES = digits()[0][:40]


def test_it_is_its_equation() -> None:
    model = Classifier(ClassifierConfig(hidden=(5, 4)), init_seed=1)
    w0, b0, w1, b1, w2, b2 = (weight.detach().double() for weight in model.parameters())
    for image, logits in zip(IMAGES[:4], model(IMAGES[:4]), strict=True):
        x = image.flatten().double()
        x = (w0 @ x + b0).clamp(min=0)
        x = (w1 @ x + b1).clamp(min=0)
        assert torch.allclose(logits.double(), w2 @ x + b2, atol=1e-6)


def test_initial_weights_are_seeded_and_of_the_right_size() -> None:
    first, again, other = (Classifier(ClassifierConfig(), init_seed=seed) for seed in (0, 0, 1))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)
    weight = first.layers[0].weight
    assert float(weight.detach().std()) == pytest.approx((2 / 364) ** 0.5, rel=0.03)


def test_its_hidden_layers_can_be_watched() -> None:
    model = Classifier(ClassifierConfig(hidden=(30, 30)))
    with Scope(model, probes=[ActivationSparsity(0)]) as scope:
        model(IMAGES)
    record = scope.record()
    hidden = model.layers[0](IMAGES.flatten(1)).relu()
    assert record.layer.values.tolist() == [0, 1]
    assert float(record.activation_zeros.sel(layer=0)) == pytest.approx(float((hidden == 0).double().mean()))
    assert record.attrs["n_samples"] == 40


def test_accuracy_counts() -> None:
    model = Classifier(ClassifierConfig(), init_seed=0)
    chosen = model(IMAGES).argmax(-1)
    assert accuracy(model, IMAGES, chosen) == 1
    chosen[:10] = (chosen[:10] + 1) % 10
    assert accuracy(model, IMAGES, chosen) == 0.75


def test_refusals() -> None:
    with pytest.raises(Refusal, match="one hidden layer"):
        ClassifierConfig(hidden=())
    with pytest.raises(Refusal, match="sizes >= 1"):
        ClassifierConfig(classes=0)
    with pytest.raises(Refusal, match="64 values an input"):
        Classifier(ClassifierConfig())(torch.zeros(2, 28, 28))

"""Taps: who sees what, in which order, and that nothing is left behind."""

from __future__ import annotations

import copy
import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal, UntappableModelError
from gatescope.taps import SITES, AttentionCall, Event, GateScores, Handler, attached, attend, tap
from torch import nn


class Model(nn.Module):
    """x + 1, shown; then one attention of x with itself."""

    tap_sites = frozenset({"key_mask", "resid", "attention"})

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, key_mask=None, fail=None):
        tap("key_mask", key_mask)
        x = tap("resid", x + self.weight, layer=0)
        if fail is not None:
            raise fail
        heads = x[:, None]
        return attend(AttentionCall(heads, heads, heads, key_mask=key_mask), layer=0)[:, 0]


class Wrapper(nn.Module):
    tap_sites = Model.tap_sites

    def __init__(self):
        super().__init__()
        self.inner = Model()

    def forward(self, x):
        return self.inner(x)


class Log(Handler):
    """Remembers what it saw; multiplies resid by ``factor``."""

    def __init__(self, name="log", factor=1.0, sites=("resid",), stats=(), log=None):
        self.name, self.factor, self.sites, self.stats = name, factor, frozenset(sites), frozenset(stats)
        self.log = [] if log is None else log
        self.events: list[Event] = []

    def edit(self, site, layer, value):
        self.log.append((self.name, "edit"))
        return value * self.factor if site == "resid" else value

    def watch(self, event):
        self.log.append((self.name, "watch"))
        self.events.append(event)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def x():
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_without_handlers_values_pass_untouched(x):
    assert tap("resid", x, layer=0) is x


def test_every_edit_comes_before_any_watching_in_order_of_attaching(model, x):
    log = []
    outer, inner = Log("outer", 2.0, log=log), Log("inner", 3.0, log=log)
    with attached(model, outer), attached(model, inner):
        model(x)
    assert log == [("outer", "edit"), ("inner", "edit"), ("outer", "watch"), ("inner", "watch")]
    for handler in (outer, inner):
        torch.testing.assert_close(handler.events[0].value, (x + 1) * 6)


def test_edits_reach_the_output_and_the_gradient(model, x):
    with attached(model, Log(factor=0.0)):
        out = model(x)
    out.sum().backward()
    assert (out == 0).all()
    assert model.weight.grad == 0


def test_watching_is_outside_the_graph(model, x):
    class Sums(Handler):
        sites = frozenset({"resid"})

        def watch(self, event):
            self.sum = event.value.sum()

    sums = Sums()
    with attached(model, sums):
        model(x).sum().backward()
    assert not sums.sum.requires_grad
    assert model.weight.grad is not None


def test_statistics_are_the_union_of_what_was_asked(model, x):
    entropy, mass = Log(sites=["attention"], stats=["entropy"]), Log(sites=["attention"], stats=["mass"])
    mass.mass_keys = (2, 0)
    with attached(model, entropy, mass):
        model(x)
    (event,) = entropy.events
    assert event.stats is mass.events[0].stats
    assert event.stats.keys == (0, 2)
    assert event.stats.entropy is not None
    assert event.stats.key_mass is None
    torch.testing.assert_close(event.output[:, 0], model(x))


def test_no_statistics_when_none_are_asked(model, x):
    watcher = Log(sites=["attention"])
    with attached(model, watcher):
        model(x)
    assert watcher.events[0].stats is None


def test_the_lse_alone_can_be_asked(model, x):
    watcher = Log(sites=["attention"], stats=["lse"])
    with attached(model, watcher):
        model(x)
    assert watcher.events[0].stats.lse.shape == (2, 1, 5)
    assert watcher.events[0].stats.entropy is None


def test_events_carry_the_padding_of_their_own_pass(model, x):
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    watcher = Log(sites=["resid", "attention"])
    with attached(model, watcher):
        model(x, mask)
        model(x)
    assert [event.key_mask is mask for event in watcher.events] == [True, True, False, False]


def test_edits_of_a_call_do_not_look_like_padding(model, x):
    class Hide(Handler):
        sites = frozenset({"attention"})

        def edit(self, site, layer, value):
            return replace(value, key_mask=torch.tensor([[False, True, True, True, True]] * 2))

    watcher = Log(sites=["attention"])
    with attached(model, watcher, Hide()):
        model(x)
    assert watcher.events[0].key_mask is None
    assert watcher.events[0].value.key_mask is not None


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), None], ids=repr)
def test_the_model_is_as_before_after_any_exit(model, x, error):
    before = dict(model.__dict__)
    watcher = Log()
    with attached(model, watcher):
        if error is not None:
            with pytest.raises(type(error)):
                model(x, fail=error)
            assert tap("resid", x, layer=0) is x
            assert len(watcher.events) == 1
        model(x)
    assert model.__dict__ == before
    assert len(watcher.events) == 1 + (error is not None)
    model(x)
    assert len(watcher.events) == 1 + (error is not None)


def test_a_failing_watcher_leaves_nothing_behind(model, x):
    class Broken(Handler):
        sites = frozenset({"resid"})

        def watch(self, event):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), attached(model, Broken()):
        model(x)
    assert "forward" not in model.__dict__
    model(x)


def test_blocks_may_end_in_any_order(model, x):
    one, two = Log(), Log()
    first, second = ExitStack(), ExitStack()
    first.enter_context(attached(model, one))
    second.enter_context(attached(model, two))
    first.close()
    model(x)
    second.close()
    model(x)
    assert (len(one.events), len(two.events)) == (0, 1)
    assert "forward" not in model.__dict__


def test_a_forward_of_the_instance_is_kept(model, x):
    model.forward = lambda x: tap("resid", 10 * x, layer=0)
    own, watcher = model.forward, Log()
    with attached(model, watcher):
        torch.testing.assert_close(model(x), 10 * x)
    assert model.forward is own
    assert len(watcher.events) == 1


def test_a_model_inside_another_is_seen_once(x):
    model, watcher, both = Wrapper(), Log(), Log()
    with attached(model, watcher), attached(model.inner, both):
        model(x)
        model.inner(x)
    assert (len(watcher.events), len(both.events)) == (1, 2)
    with attached(model, watcher), attached(model.inner, watcher):
        model(x)
    assert len(watcher.events) == 2


def test_another_model_is_not_seen(model, x):
    watcher = Log()
    with attached(model, watcher):
        Model()(x)
        copy.deepcopy(model)(x)
    assert not watcher.events


def test_threads_are_told_apart(model, x):
    """Two models run at once; each handler sees its own."""
    other, watchers = Model(), [Log(), Log()]
    gate = threading.Barrier(2)

    def run(place, which):
        with attached(which, watchers[place]):
            for _ in range(20):
                gate.wait(timeout=10)
                which(x * (place + 1))

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate((model, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, watcher in enumerate(watchers):
        assert len(watcher.events) == 20
        torch.testing.assert_close(watcher.events[-1].value, x * (place + 1) + 1)


def test_gate_scores_know_what_leaves_things_alone():
    scores = torch.rand(1, 2, 3, 1)
    assert GateScores(scores, "sdpa").identity == 1
    assert GateScores(scores, "sdpa", "add").identity == 0


def test_the_sites_are_documented():
    assert all(name == site.name and site.shape and site.meaning for name, site in SITES.items())


REFUSALS = {
    "unknown tap": (
        lambda model, x: tap("residd", x),
        r"tap: wanted a site of \('tokens', .*, got 'residd'; add a row to taps.SITES",
    ),
    "unknown site": (
        lambda model, x: attached(model, Log(sites=["nowhere"])).__enter__(),
        r"Log: wanted sites among \[.*, got \['nowhere'\]; correct the handler's sites",
    ),
    "unknown statistic": (
        lambda model, x: attached(model, Log(sites=["attention"], stats=["mean"])).__enter__(),
        r"Log: wanted stats among \[.*, got \['mean'\]; correct the handler's stats",
    ),
    "no taps": (
        lambda model, x: attached(nn.Linear(1, 1), Log()).__enter__(),
        r"Log: wanted a model that emits taps .*, got Linear, which has none; load it as a gatescope model",
    ),
    "taps inside": (
        lambda model, x: attached(nn.Sequential(nn.ReLU(), model), Log()).__enter__(),
        r"got Sequential, which has none; attach to its submodule '1', which has",
    ),
    "missing site": (
        lambda model, x: attached(model, Log(sites=["gate", "resid"])).__enter__(),
        r"Log: wanted sites \['gate', 'resid'\], got Model, which does not show \['gate'\]; use a model that has them",
    ),
    "edit returns nothing": (
        lambda model, x: edited(model, x, lambda value: None),
        r"Edit: wanted an edit at 'resid' \(layer 0\) that keeps torch.float32 \(2, 5, 4\) on cpu, got NoneType",
    ),
    "edit changes shape": (
        lambda model, x: edited(model, x, lambda value: value[:1]),
        r"Edit: .* got torch.float32 \(1, 5, 4\) on cpu; return the value from edit\(\)",
    ),
    "edit changes dtype": (
        lambda model, x: edited(model, x, torch.Tensor.double),
        r"got torch.float64 \(2, 5, 4\) on cpu",
    ),
}


def edited(model, x, change):
    class Edit(Handler):
        sites = frozenset({"resid"})

        def edit(self, site, layer, value):
            return change(value)

    with attached(model, Edit()):
        model(x)


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(model, x, name):
    act, message = REFUSALS[name]
    kind = UntappableModelError if name in ("no taps", "taps inside", "missing site") else Refusal
    with pytest.raises(kind, match=message):
        act(model, x)
    assert "forward" not in model.__dict__


def test_a_handler_is_attached_once(model, x):
    watcher = Log()
    with attached(model, watcher):
        with pytest.raises(Refusal, match="Log: wanted to be attached to Model once, got a second time; make a second"):
            attached(model, watcher).__enter__()
        model(x)
    assert len(watcher.events) == 1


def test_a_key_the_call_does_not_have_is_refused(model, x):
    watcher = Log(sites=["attention"], stats=["mass"])
    watcher.mass_keys = (5,)
    with (
        attached(model, watcher),
        pytest.raises(Refusal, match=r"Log: wanted keys below 5, .*, got \[5\]; give the model"),
    ):
        model(x)

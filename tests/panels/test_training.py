"""train_live: watched, stopped, gone on with."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope import panels
from gatescope.errors import Refusal
from gatescope.train import Progress, Training, TrainSpec


class Falling:
    """A training whose loss is 2 / step and whose sink falls; it goes on where it was left, or fails at a step."""

    def __init__(self, steps=40, fails_at=None, pace=None):
        self.spec = SimpleNamespace(steps=steps)
        self.step, self.fails_at, self.pace = 0, fails_at, pace

    def __iter__(self):
        while self.step < self.spec.steps:
            if self.pace is not None:
                self.pace.wait(0.001)
            self.step += 1
            if self.step == self.fails_at:
                raise RuntimeError("<b>diverged</b>")
            sink = np.full((1, 2), 1 / self.step)
            record = xr.Dataset({"first_attention": (("layer", "head"), sink)}) if self.step % 10 == 0 else None
            yield Progress(self.step, 2 / self.step, None, 1e-3, record)


@pytest.fixture
def panel():
    return panels.train_live(Falling, interval=60.0)


def test_blocking_steps_draw_the_loss_and_what_was_recorded(panel):
    panel.run_blocking(25)
    frame = panel.frame()
    assert frame["step"].tolist() == list(range(1, 26))
    assert frame["loss"].tolist() == pytest.approx([2 / step for step in range(1, 26)])
    assert panel.frame("metric").iloc[:, -1].tolist() == pytest.approx([0.1, 0.05])
    assert "stopped at step 25 of 40" in panel.status.value
    assert (panel.bar.value, panel.bar.max) == (25, 40)


def test_it_goes_on_where_it_stopped_and_ends(panel):
    panel.run_blocking(25)
    assert panel.start_button.description == "Resume"
    panel.run_blocking()
    assert panel.frame()["step"].tolist() == list(range(1, 41))
    assert "finished" in panel.status.value
    assert panel.start_button.disabled


def test_before_the_first_step_there_is_nothing_to_tabulate(panel):
    with pytest.raises(Refusal, match="nothing drawn yet"):
        panel.frame()


def test_the_thread_stops_at_the_button_and_resumes():
    never = threading.Event()
    panel = panels.train_live(lambda: Falling(steps=10**6, pace=never), interval=0.02)
    reached = threading.Event()
    panel.bar.observe(lambda change: change["new"] > 3 and reached.set(), "value")
    panel.start_button.click()
    assert reached.wait(30)
    assert panel.running
    with pytest.raises(Refusal, match="press Stop"):
        panel.run_blocking(1)
    panel.stop_button.click()
    assert not panel.running
    stopped = panel.frame()["step"].iloc[-1]
    assert stopped == panel.training.step == panel.bar.value
    panel.run_blocking(2)
    assert panel.frame()["step"].iloc[-1] == stopped + 2
    assert panel.message == ""


def test_a_failure_is_words_in_the_panel_and_what_was_drawn_stays(capfd):
    panel = panels.train_live(lambda: Falling(fails_at=6), interval=60.0)
    panel.start()
    panel._thread.join(30)
    assert "RuntimeError: &lt;b&gt;diverged" in panel.error.value
    assert len(panel.frame()) == 5
    assert "Traceback" not in "".join(capfd.readouterr())
    panel.run_blocking()
    assert panel.frame()["step"].iloc[-1] == 40
    assert panel.message == ""


def test_a_training_that_cannot_be_made_is_told():
    panel = panels.train_live(lambda: 1 / 0)
    panel.run_blocking()
    assert "ZeroDivisionError" in panel.message


def test_reset_forgets_the_run(panel):
    panel.run_blocking(10)
    panel.reset_button.click()
    assert panel.training is None
    assert panel.start_button.description == "Start"
    with pytest.raises(Refusal):
        panel.frame()
    panel.run_blocking(3)
    assert len(panel.frame()) == 3


def test_a_metric_no_record_holds_is_told(panel):
    panel.run_blocking(20)
    panel.metric.value = "gate score, mean"
    assert "gate_mean" in panel.message
    panel.metric.value = "first-token attention, largest head"
    assert panel.message == ""


def test_the_real_thing(gated):
    from gatescope.probes import Gates, Sinks

    class Repeats:
        def batch(self, seed, size):
            generator = torch.Generator().manual_seed(hash(seed) % 2**31 if not isinstance(seed, int) else seed)
            return torch.randint(0, 64, (size, 1), generator=generator).expand(size, 8).contiguous(), None

    def make():
        spec = TrainSpec(steps=30, batch=8, warmup=5, record_every=10, record_batch=4)
        return Training(gated.config, Repeats(), spec, probes=[Sinks(), Gates()])

    panel = panels.train_live(make, interval=60.0)
    panel.run_blocking(15)
    panel.run_blocking()
    assert panel.message == ""
    losses = panel.frame()["loss"].tolist()
    assert len(losses) == 30
    assert losses[-1] < losses[0]
    panel.metric.value = "gate score, mean"
    assert panel.frame("metric")["step"].tolist() == [10, 20, 30]

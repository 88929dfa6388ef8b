"""The search for massive activations: its models, what a peak is, and what is refused."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope.probes import Massive
from gatescope.studies import expand, load
from gatescope.studies.points.emergence import RATES, EmergenceRun, measure, model_config, tasks_of, train_spec
from gatescope.train import Training


def test_the_optimiser_brings_its_own_rate():
    for optimizer, rate in RATES.items():
        spec = train_spec(EmergenceRun(optimizer=optimizer))
        assert (spec.optimizer, spec.lr) == (optimizer, rate)


def test_width_depth_and_data_reach_the_model():
    config = model_config(EmergenceRun(d_model=64, n_layers=6, task="bytes"))
    assert (config.d_model, config.n_layers, config.vocab) == (64, 6, 257)
    assert [mixer.head_dim for mixer in config.mixers] == [64] * 6


def test_bytes_are_measured_on_text_that_training_never_shows():
    train, held_out, _ = tasks_of(EmergenceRun(task="bytes"))
    assert (train.part, held_out.part) == ("train", "held_out")


def test_a_peak_is_the_largest_over_all_looks():
    run = EmergenceRun(d_model=8, n_layers=2, steps=16, seed=1)
    training = Training(model_config(run), tasks_of(run)[0], train_spec(run), probes=[Massive(ranks=1)])
    record = training.run(progress=False).record
    found = measure(run)
    assert record.step.values.tolist() == list(range(0, 17, 2))
    assert found.massive_ratio_peak.values.tolist() == record.massive_ratio.max("step").values.tolist()
    assert (found.magnitude_max_peak.values >= record.magnitude_max.isel(step=0).values).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"d_model": 7}, "an even d_model"),
        ({"n_layers": 0}, "a layer and a step or more"),
        ({"steps": 0}, "a layer and a step or more"),
    ],
)
def test_an_impossible_run_is_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        EmergenceRun(**fields)


def test_the_study_changes_one_thing_at_a_time_and_has_corners():
    configs = [point.config for point in expand(load("emergence")).points]
    base = {"d_model": 32, "n_layers": 4, "task": "bigram", "optimizer": "adam", "steps": 288}
    changed = {sum(config[axis] != value for axis, value in base.items()) for config in configs}
    assert {0, 1} < changed
    assert max(changed) == 4

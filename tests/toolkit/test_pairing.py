"""Two records aligned: what is common, what is not, and how far apart they are."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from gatescope import records
from gatescope.errors import Refusal
from gatescope.probes import PROBES
from gatescope.records import Quantity, differences, pair, renamings

FIRST = Quantity("first_attention", ("layer", "head"), "1", "attention to the first token", "mean A[i,0]", "S", "B")
DIM = Quantity("top_dim", ("layer", "rank"), "1", "dimension of the largest values", "argmax |h|", "S", "B")
LOSS = Quantity("lens_loss", ("layer",), "nats", "loss", "-log p", "S", "B")
TOTAL = Quantity("m_act", (), "1", "mean largest value", "mean max |h|", "S", "B")
LIVE = Quantity("gate_live", ("layer", "gate_head"), "1", "live", "not all 0 or 1", "S", "B")


def record(values, layers=None, more=(), **attrs):
    values = np.asarray(values, dtype=float)
    first = FIRST.variable(values, {"layer": layers or range(len(values))}, first_query=1)
    return records.new({"first_attention": first, **{data.name: data for data in more}}, **attrs)


A = [[0.1, 0.2], [0.3, 0.4]]
B = [[0.1, 0.9], [0.3, 0.4]]


def row(found, name="first_attention"):
    return differences(found).set_index("variable").loc[name]


def test_the_table_is_the_arithmetic_by_hand():
    found = row(pair(record(A), record(B)))
    a, b = ([value for heads in layers for value in heads] for layers in (A, B))
    assert found[["mean_a", "mean_b"]].tolist() == pytest.approx([0.25, 0.425])
    assert found["difference"] == pytest.approx(0.175)
    spread = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
    assert found["effect"] == pytest.approx(0.175 / spread)
    assert found[["largest", "there_a", "there_b"]].tolist() == pytest.approx([0.7, 0.2, 0.9])
    assert (found["where"], found["places"], found["missing"]) == ("layer 0, head 1", 4, 0)


def test_a_record_beside_itself_has_no_difference_and_no_place():
    found = row(pair(record(A), record(A)))
    assert found[["difference", "effect", "largest"]].tolist() == [0, 0, 0]
    assert found["where"] == ""


def test_swapping_the_records_turns_every_sign():
    one, other = row(pair(record(A), record(B))), row(pair(record(B), record(A)))
    for column in ("difference", "effect", "largest"):
        assert one[column] == -other[column]
    assert one["where"] == other["where"]


def test_places_without_a_number_are_counted_and_left_out_of_both_means():
    holed = record([[math.nan, 0.9], [0.3, math.inf]])
    found = row(pair(record(A), holed))
    assert (found["places"], found["missing"]) == (2, 2)
    assert found[["mean_a", "mean_b"]].tolist() == pytest.approx([0.25, 0.6])
    nothing = row(pair(record(A), record(np.full((2, 2), np.nan))))
    assert (nothing["places"], nothing["missing"], nothing["where"]) == (0, 4, "")
    assert math.isnan(nothing["difference"])


def test_labels_decide_not_positions():
    deep = record([[0.3, 0.4], [0.5, 0.6], [0.1, 0.2]], layers=[1, 2, 0])
    found = pair(record(A), deep)
    assert found.record["layer"].values.tolist() == [0, 1]
    assert row(found)["largest"] == 0
    assert found.notes == ("Labels of layer differ: 1 only in B (2); compared at the 2 common ones",)


def test_a_dim_in_another_order_is_the_same_dim():
    turned = record(B)
    turned["first_attention"] = turned["first_attention"].transpose("head", "layer")
    assert row(pair(record(A), turned))["where"] == "layer 0, head 1"


def test_dims_without_coordinates_align_by_position():
    bare = record(A).drop_vars("head")
    found = pair(bare, record(np.ones((2, 3))))
    assert "1 only in B (2); compared at the 2 common ones" in found.notes[0]


def test_what_only_one_has_is_listed():
    more = record(B, more=[LOSS.variable([1.0, 2.0])])
    assert pair(record(A), more).only == {"A": (), "B": ("lens_loss",)}
    assert pair(more, record(A), labels=("new", "old")).only == {"new": ("lens_loss",), "old": ()}


def test_single_numbers_and_booleans_are_compared():
    one, other = (
        record(A, more=[TOTAL.variable(total), LIVE.variable([[live], [True]])])
        for total, live in ((10.0, True), (12.0, False))
    )
    found = pair(one, other)
    assert row(found, "m_act")[["difference", "largest"]].tolist() == [2, 2]
    assert row(found, "m_act")["where"] == "the only value"
    assert math.isnan(row(found, "m_act")["effect"])
    assert row(found, "gate_live")["largest"] == -1


def test_the_largest_effect_comes_first_whatever_its_unit():
    one, other = (
        record(values, more=[LOSS.variable(loss)]) for values, loss in ((A, [1.0, 2.0]), (B, [1001.0, 1002.0]))
    )
    assert differences(pair(one, other))["variable"].tolist() == ["lens_loss", "first_attention"]


def test_names_agree_or_not_and_have_no_difference():
    one, other = (record(A, more=[DIM.variable(dims)]) for dims in ([[5, 7], [5, 7]], [[5, 7], [9, 7]]))
    found = pair(one, other)
    assert differences(found)["variable"].tolist() == ["first_attention"]
    assert renamings(found).to_dict("records") == [
        {"variable": "top_dim", "share": 0.25, "where": "layer 1, rank 0", "there_a": 5, "there_b": 9, "places": 4}
    ]
    assert renamings(pair(one, one))["where"].tolist() == [""]
    assert renamings(pair(record(A), record(B))).empty


def test_variables_of_names_are_measured_by_a_probe():
    measured = {quantity.name for probe in PROBES.values() for quantity in probe.quantities}
    assert measured >= records.NAMING


@pytest.mark.parametrize("attr", ["units", "formula", "first_query"])
def test_another_definition_is_refused_and_both_are_named(attr):
    other = record(B)
    other["first_attention"].attrs[attr] = "another"
    own = record(A)["first_attention"].attrs[attr]
    with pytest.raises(Refusal, match="one definition of 'first_attention'") as refusal:
        pair(record(A), other)
    assert refusal.value.got == f"{attr} {own!r} in A and 'another' in B"


def test_other_dims_are_another_definition():
    with pytest.raises(Refusal, match="dims"):
        pair(record(A), record(B).expand_dims("variant"))


def test_variables_can_be_chosen_past_one_that_is_defined_otherwise():
    one, other = (record(values, more=[LOSS.variable([1.0, 2.0])]) for values in (A, B))
    other["lens_loss"].attrs["units"] = "bits"
    assert row(pair(one, other, variables=["first_attention"]))["places"] == 4
    with pytest.raises(Refusal, match="in B one of first_attention"):
        pair(one, record(B), variables=["lens_loss"])


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (records.new({"lens_loss": LOSS.variable([1.0])}), "a variable in common"),
        (record(B, layers=[7, 8]), "Labels of layer differ: 2 only in A"),
        (record(B).drop_attrs(deep=False), "gatescope_schema"),
        (record(B, layers=[1, 1]), "1 twice in B"),
    ],
    ids=["no variable", "no label", "no record", "a label twice"],
)
def test_what_cannot_be_aligned_is_refused(b, words):
    with pytest.raises(Refusal, match=words):
        pair(record(A), b)


def test_labels_have_to_differ():
    with pytest.raises(Refusal, match="two different labels"):
        pair(record(A), record(B), labels=("A", "A"))


def test_a_variable_without_a_common_label_is_said_and_the_others_stay():
    one = record(A, more=[LOSS.variable([1.0, 2.0], {"layer": [0, 1]})])
    step = Quantity("experts_dead", ("step",), "experts", "dead experts", "count", "S", "B")
    one, other = (
        base.assign(experts_dead=step.variable([1.0], {"step": [at]})) for base, at in ((one, 1), (record(B), 2))
    )
    found = pair(one, other)
    assert list(found.record.data_vars) == ["first_attention"]
    assert "experts_dead has no place that both records hold" in found.notes


def test_what_moves_numbers_is_told():
    one, other = (
        record(values, T=T, bos="none", tokens_sha256=digest) for values, T, digest in ((A, 8, "x"), (B, 16, "y"))
    )
    assert pair(one, other).notes == (
        "Tokens a sequence: 8 in A; 16 in B",
        "The texts differ: numbers along token compare positions, not words",
    )


def test_text_variables_are_said_not_compared():
    one, other = (record(values).assign(lens_loss=LOSS.variable(["p", "q"])) for values in (A, B))
    assert pair(one, other).notes == ("lens_loss holds text, which is not compared",)

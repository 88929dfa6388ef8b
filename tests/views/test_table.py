"""The table of views, and the promise that nothing draws before it is asked to."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from gatescope import views
from gatescope.errors import Refusal
from gatescope.views import VIEWS

SUPPORT = {"__init__", "hover", "select", "still", "style"}


def test_importing_views_and_asking_for_a_frame_imports_nothing_that_draws():
    script = (
        "import sys, numpy, xarray; from gatescope import views\n"
        "assert 'xarray' in sys.modules and 'pandas' in sys.modules\n"
        "views.sink_heatmap_frame(xarray.Dataset({'first_attention': (('layer', 'head'), numpy.ones((2, 2)))}))\n"
        "views.curves, views.massive_3d, views.variant_strip, views.token_strip\n"
        "print([m for m in ('torch', 'matplotlib', 'plotly', 'ipywidgets', 'IPython') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_module_of_the_folder_is_in_the_table():
    folder = {path.stem for path in Path(views.__file__).parent.glob("*.py")}
    assert folder - SUPPORT == {view.module for view in VIEWS.values()}
    assert not folder & set(VIEWS), "a module named as a view would hide it"


def test_an_unknown_view_names_the_known_ones():
    with pytest.raises(AttributeError, match="sink_heatmap"):
        views.sink_map  # noqa: B018


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_draws_with_a_frame_and_an_alt_text_that_carries_numbers(name, drawn):
    ds, arguments = drawn[name]
    figure, frame = getattr(views, name)(ds, *arguments), getattr(views, VIEWS[name].frame)(ds, *arguments)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame)
    assert any(character.isdigit() for character in views.alt_text(figure))


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_prints_t_and_the_baseline(name, drawn):
    ds, arguments = drawn[name]
    text = views.alt_text(getattr(views, name)(ds, *arguments))
    assert "T = " in text
    assert "Baseline = 0.259 (uniform causal attention: H_T / T)" in text


@pytest.mark.parametrize(("name", "lost"), [(view.name, lost) for view in VIEWS.values() for lost in view.variables])
def test_a_missing_variable_names_the_view_the_variable_and_the_probe(name, lost, drawn):
    ds, arguments = drawn[name]
    with pytest.raises(Refusal, match=f"^{name}: wanted the variable '{lost}'") as refusal:
        getattr(views, name)(ds.drop_vars(lost), *arguments)
    assert "Scope" in str(refusal.value) or "choose one of" in str(refusal.value)


@pytest.mark.parametrize("name", ["variant_strip", "curves", "token_strip", "difference_map"])
def test_a_metric_that_is_not_there_lists_those_that_are(name, drawn):
    with pytest.raises(Refusal, match=f"^{name}: wanted the variable 'lost'"):
        getattr(views, name)(drawn[name][0], "lost")


def test_extra_dims_are_refused_with_the_selection_that_helps(record):
    with pytest.raises(Refusal, match=r"record\.isel\(variant=0\)"):
        views.sink_heatmap(record.expand_dims("variant"))


def test_missing_values_are_counted_in_words(record):
    record["first_attention"][0, 0] = float("nan")
    assert "1 of 12 values of first_attention are NaN" in views.alt_text(views.sink_heatmap(record))


@pytest.mark.parametrize(
    "name",
    [
        "sink_heatmap",
        "entropy_profile",
        "massive_profile",
        "value_drain_bars",
        "expert_load_heatmap",
        "coactivation_heatmap",
        "residual_profile",
        "lens_profile",
        "sparsity_profile",
        "outlier_profile",
        "weight_profile",
    ],
)
def test_a_record_of_nothing_but_nan_is_drawn_and_said(name, drawn):
    ds = drawn[name][0]
    text = views.alt_text(getattr(views, name)(ds.where(False).assign_attrs(ds.attrs)))
    assert "NaN" in text


def test_alt_text_refuses_what_no_view_made():
    with pytest.raises(Refusal, match="alt_text"):
        views.alt_text(object())

"""The page of a record: every number is the record's, it needs nothing but itself, and no text becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from gatescope import records
from gatescope.errors import Refusal
from gatescope.report import scan_page, variable_frame
from gatescope.report.drawn import FIGURES
from gatescope.report.findings import findings
from gatescope.report.page import MAX_ROWS, table
from gatescope.scan.loading import open_model
from gatescope.scan.measuring import choose_probes, measure, tokenise

from . import scanned

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def record(tmp_path_factory, require):
    require("transformers")
    opened = open_model(str(scanned.folder(tmp_path_factory.mktemp("models") / "mixtral", "mixtral")))
    probes = choose_probes(opened, None)
    return measure(opened, tokenise(opened, scanned.TEXT, None)[0], probes, progress=False)


class Page(HTMLParser):
    """What a reader of the page meets: tags with their attributes, headings in order, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(record):
    return Page(scan_page(record))


def test_it_needs_nothing_but_itself(record, page):
    html = scan_page(record)
    assert html == scan_page(record)
    used = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
    assert [value for value in used if not value.startswith(("#", "data:"))] == []
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert re.findall(r"url\((?!#)", html) == []


def test_every_figure_has_words_and_a_table_behind_it(page):
    figures = page.all("figure")
    drawings = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    assert len(figures) == len(drawings) >= 8
    assert all(len(attrs["aria-label"]) > 40 for attrs in drawings)
    assert len(page.all("details")) >= len(figures)


def test_ids_are_single_and_headings_go_down_one_at_a_time(page):
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_no_text_of_model_tokens_or_attributes_becomes_markup(record):
    hostile = record.assign_attrs(model=HOSTILE, note=HOSTILE, **{HOSTILE: HOSTILE})
    hostile = hostile.assign_coords(piece=("token", [HOSTILE] * record.sizes["token"]))
    html = scan_page(hostile)
    assert Page(html).all("script") == []
    assert HOSTILE not in html
    assert HOSTILE in "".join(Page(html).text)


def test_what_the_summary_says_is_counted_from_the_record(record):
    said = {found.title.split(":")[0]: found for found in findings(record)}
    sinks = int((record.sink_score.isel(chosen=0) > 0.3).sum())
    heads = record.sizes["layer"] * record.sizes["head"]
    assert said["Sinks"].title == f"Sinks: {sinks} of {heads} heads"
    mean = float(record.next_token_loss.mean())
    assert f"{mean:.3f}" in said["Loss"].title
    assert {"Massive activations", "Entropy", "Value drain"} <= set(said)


def test_a_planted_massive_value_and_a_dead_expert_are_named(record):
    planted = record.copy(deep=True)
    planted["top_value"][1, 0], planted["top_token"][1, 0], planted["top_dim"][1, 0] = 5000.0, 3, 7
    planted["magnitude_median"][1], planted["massive_count"][1] = 1.0, 1
    planted["expert_load"][2] = [0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    text = "\n".join(f"{found.title} {' '.join(found.sentences)}" for found in findings(planted))
    assert "dimension 7, layers 1 to 1, up to 5,000 at token 3" in text
    assert "layer 2, expert 0" in text
    planted["massive_count"].attrs["ratio"] = 6000.0
    assert "Massive activations: none" in [found.title for found in findings(planted)]
    quiet = record.copy(deep=True)
    quiet["top_value"][:] = 1.0
    quiet["massive_count"][:] = 0
    assert "Massive activations: none" in [found.title for found in findings(quiet)]
    del quiet["massive_count"].attrs["floor"]
    with pytest.raises(Refusal, match="wanted the rule of massive_count"):
        findings(quiet)


@pytest.mark.parametrize("row", FIGURES, ids=[row.anchor for row in FIGURES])
def test_a_figure_is_drawn_where_its_variables_are_and_left_out_where_not(row, record):
    html = scan_page(record)
    assert (f'id="{row.anchor}-' in html) == (set(row.variables) <= set(record.data_vars))
    lacking = record.drop_vars([name for name in row.variables if name in record])
    assert f'id="{row.anchor}-' not in scan_page(lacking)


def test_every_variable_is_listed_with_its_extremes(record):
    frame = variable_frame(record).set_index("variable")
    assert set(frame.index) == set(record.data_vars)
    assert frame.loc["sink_score", "highest"] == pytest.approx(float(record.sink_score.max()))


def test_long_tables_say_what_they_leave_out():
    html = table(pd.DataFrame({"value": np.arange(MAX_ROWS + 5.0)}))
    assert html.count("<tr>") == MAX_ROWS + 1
    assert f"The first {MAX_ROWS} of {MAX_ROWS + 5} rows" in html


def test_what_is_no_record_is_refused(record):
    with pytest.raises(Refusal, match="scan_page"):
        scan_page(record.drop_attrs())
    assert "holds nothing that a sentence" in scan_page(records.merge([record[["resid_norm"]]], **record.attrs))

"""The words of the lessons: linked once a lesson, explained under the mouse, listed on the start page."""

from __future__ import annotations

import json

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.glossary import HEADING, PAGE, glossary, linked, terms
from gatescope_lessons.lesson_kit import EDITIONS, own_shelf


def test_the_first_bold_use_is_linked_and_only_that() -> None:
    found = linked(["An **attention sink**, or **sink**.", "The **Sink** and the **row entropy**; plain decay."])
    assert found[0].startswith(f'An [**attention sink**]({PAGE}#{HEADING} "A key, ')
    assert "**sink**." in found[0]
    assert "[**sink**]" not in found[0]
    assert "[**Sink**]" not in found[1]
    assert "[**row entropy**]" in found[1]
    assert "plain decay." in found[1]


def test_solutions_link_one_folder_up() -> None:
    assert f"(../{PAGE}#" in linked(["**decay**"], "../")[0]


def test_what_is_no_word_stays() -> None:
    text = "**Run** it, 2**3**4, and `a ** b`"
    assert linked([text]) == [text]


def test_the_page_that_links_lead_to_has_the_list() -> None:
    assert own_shelf().notebook("l00_start", "exercise").name == PAGE
    assert f"## {HEADING}\n" in own_shelf().source("l00_start").read_text(encoding="utf-8").replace("# ## ", "## ")
    assert glossary().html.count("<tr>") == len(terms()) + 1


def test_every_word_is_used_in_a_lesson() -> None:
    texts = " ".join(own_shelf().source(folder).read_text(encoding="utf-8").lower() for folder in own_shelf().folders())
    assert [term.name for term in terms() if not any(f"**{name}**" in texts for name in term.names)] == []


@pytest.mark.parametrize("edition", EDITIONS)
def test_links_in_a_built_notebook_lead_to_the_start_page(edition) -> None:
    path = own_shelf().notebook("l01_where_attention_goes", edition)
    links = [
        part
        for cell in json.loads(path.read_text())["cells"]
        for part in cell["source"]
        if "[**attention sink**]" in part
    ]
    assert len(links) == 1
    start = links[0].split("](")[1].split("#")[0]
    assert (path.parent / start).resolve() == own_shelf().notebook("l00_start", "exercise").resolve()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[term]]\nname = "a"\nmeans = "x"\n[[term]]\nname = "b"\nalso = ["A"]\nmeans = "y"', "every name once"),
        ('[[term]]\nname = "a"\nmeans = " "', "a meaning of every word"),
        ('[[term]]\nname = "b"\nmeans = "x"\n[[term]]\nname = "a"\nmeans = "y"', "alphabetical"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, text, told) -> None:
    path = tmp_path / "glossary.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Refusal, match=told):
        terms(path)

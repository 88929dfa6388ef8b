"""The attention lens: one row and one column at a time, whoever asks, the page or the code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope import panels
from gatescope.errors import Refusal
from gatescope.probes import AttentionRows
from gatescope.taps import attached

TEXT = "abcdefgh"


@pytest.fixture
def panel(pretrained):
    return panels.attention_lens(pretrained, TEXT)


def shown(panel, name):
    return np.frombuffer(getattr(panel.lens, name), dtype=np.float32)


def matrix(pretrained, text, layer):
    """[H T T] from rows that are tested elsewhere."""
    rows = AttentionRows()
    with torch.no_grad(), attached(pretrained.model, rows):
        pretrained.model(pretrained.tokenizer.prepare(text))
    return torch.stack(
        [torch.stack([rows.reads(layer, i, head) for i in range(len(text))]) for head in range(rows.heads)]
    ).numpy()


def test_the_page_gets_the_row_and_the_column_of_the_chosen_token(panel, pretrained):
    panel.apply(layer=1, head=1, token=4)
    A = matrix(pretrained, TEXT, 1)[1]
    np.testing.assert_allclose(shown(panel, "reads"), A[4], atol=1e-6)
    np.testing.assert_allclose(shown(panel, "read_by"), A[:, 4], atol=1e-6)
    frame = panel.frame()
    assert frame["piece"].tolist() == panel.lens.pieces
    np.testing.assert_allclose(frame["reads"], A[4], atol=1e-6)


def test_the_mean_of_all_heads_is_the_default(panel, pretrained):
    panel.apply(layer=2, token=3)
    np.testing.assert_allclose(shown(panel, "reads"), matrix(pretrained, TEXT, 2).mean(0)[3], atol=1e-6)


def test_what_the_page_chooses_moves_the_controls_and_is_answered(panel, pretrained):
    before = panel.lens.answer
    panel.lens.token = 6
    assert panel.token.value == 6
    assert panel.lens.answer == before + 1
    panel.lens.set_trait("layer", 0)
    panel.lens.set_trait("head", 1)
    assert (panel.layer.value, panel.head.value) == (0, 1)
    np.testing.assert_allclose(shown(panel, "reads"), matrix(pretrained, TEXT, 0)[1][6], atol=1e-6)


def test_the_map_holds_the_attention_to_the_first_token(panel, pretrained):
    grid = shown(panel, "grid").reshape(len(panel.lens.layers), panel.lens.heads)
    for layer in panel.lens.layers:
        np.testing.assert_allclose(grid[layer], matrix(pretrained, TEXT, layer)[:, 1:, 0].mean(1), atol=1e-6)


def test_no_message_grows_with_the_square_of_the_text(pretrained):
    panel = panels.attention_lens(pretrained, "x" * 400)
    assert len(panel.lens.reads) == len(panel.lens.read_by) == 4 * 400
    assert len(panel.lens.grid) == 4 * 3 * 2


def test_a_shorter_text_takes_the_token_along(panel):
    panel.apply(layer=2, head=0, token=7)
    panel.text.value = "xyz"
    assert panel.message == ""
    assert (panel.token.value, panel.token.max, panel.layer.value, panel.head.value) == (2, 2, 2, 0)
    panel.apply(text="a longer one", token=11)
    assert panel.token.value == 11
    panel.reset()
    assert panel.state == {"text": TEXT, "layer": 1, "head": -1, "token": 0}


@pytest.mark.parametrize(("text", "told"), [("", "type a sentence"), ("x", "at least 2 tokens"), ("x" * 3000, "2000")])
def test_a_text_that_cannot_be_read_is_said_and_the_last_picture_stays(panel, text, told):
    pieces = panel.lens.pieces
    panel.text.value = text
    assert told in panel.message
    assert panel.lens.pieces == pieces
    panel.text.value = "fine again"
    assert panel.message == ""


def test_every_control_at_both_ends(panel):
    for layer in (0, 2):
        for head in (-1, 0, 1):
            for token in (0, 7):
                panel.apply(layer=layer, head=head, token=token)
                assert panel.message == ""
    with pytest.raises(Refusal, match="token"):
        panel.apply(token=8)
    with pytest.raises(Refusal, match="layer"):
        panel.apply(layer=9)


def test_token_texts_are_escaped(pretrained):
    rows = AttentionRows()
    with torch.no_grad(), attached(pretrained.model, rows):
        pretrained.model(torch.tensor([[1, 2, 3]]))
    panel = panels.attention_lens(None, "any", measure=lambda text: (rows, ["<script>", "b", "c"]))
    assert "<script>" not in panel._pictures["numbers"]._still.value
    assert "&lt;script&gt;" in panel._pictures["numbers"]._still.value


def test_the_first_token_says_that_it_sees_one_key(panel):
    panel.token.value = 0
    assert "it sees one key alone" in panel._pictures["numbers"]._still.value

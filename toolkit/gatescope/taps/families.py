"""The table of Hugging Face families: where in each the places of taps.SITES lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Router:
    """Where a family's router lies, and what its numbers mean.

    path    in the block; it returns (logits, weights, indices)
    kind    what makes probabilities of its logits
    bias    attribute of the router that is added to probabilities for the selection only
    shared  field of the config that holds how many experts every token visits beside the chosen ones, or that is
            positive where there is one such expert (Qwen3-Next names its width)
    """

    path: str
    kind: Literal["softmax", "sigmoid"] = "softmax"
    bias: str | None = None
    shared: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One row: names of modules, from a block on. Where several are named, a block has one of them.

    model_type        of the config
    title             what people call it
    attends           what its attention takes beyond q, k, v
    blocks            the list of blocks in the base model
    attention         the attention of a block
    attention_update  the module whose output a block adds to the residual stream after attending
    mlp_update        the same after its MLP or experts
    down              the down projection of a dense block's MLP
    router            None in families without experts
    gate              the projection whose second half in each head is the logit of a gate on the attention's output
    head              the output head of a language model
    note              what "resid" and the updates are where blocks are not x + f(norm(x)) twice
    """

    model_type: str
    title: str
    attends: str
    blocks: str = "layers"
    attention: str = "self_attn"
    attention_update: tuple[str, ...] = ("self_attn",)
    mlp_update: str = "mlp"
    down: str | None = "mlp.down_proj"
    router: Router | None = None
    gate: str | None = None
    head: str | None = "lm_head"
    note: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites a model of this family can show, in the order of taps.SITES."""
        some = {"router": self.router, "mlp": self.down, "gate": self.gate, "logits": self.head}
        order = ("tokens", "key_mask", "embed", "resid", "attention", *some)
        return tuple(site for site in (*order, "attention_update", "mlp_update") if some.get(site, site) is not None)


_SANDWICH = "norms before and behind attention and MLP: the updates are what the norms behind them give"

_ROWS = (
    Family(
        "gpt2",
        "GPT-2",
        "causal",
        blocks="h",
        attention="attn",
        attention_update=("attn",),
        down="mlp.c_proj",
    ),
    Family(
        "gpt_neox",
        "GPT-NeoX, Pythia",
        "causal",
        attention="attention",
        attention_update=("post_attention_dropout",),
        mlp_update="post_mlp_dropout",
        down="mlp.dense_4h_to_h",
        note="attention and MLP read the same residual stream unless use_parallel_residual is off",
    ),
    Family("llama", "Llama", "causal, grouped queries"),
    Family("mistral", "Mistral", "causal, grouped queries, sliding window"),
    Family("qwen3", "Qwen3", "causal, grouped queries, sliding window in some layers"),
    Family(
        "gemma2",
        "Gemma 2",
        "causal, grouped queries, sliding window in every other layer, soft-capped logits",
        attention_update=("post_attention_layernorm",),
        mlp_update="post_feedforward_layernorm",
        note=_SANDWICH,
    ),
    Family(
        "gemma3_text",
        "Gemma 3 (text)",
        "causal, grouped queries, sliding window in most layers",
        attention_update=("post_attention_layernorm",),
        mlp_update="post_feedforward_layernorm",
        note=_SANDWICH,
    ),
    Family(
        "phi3",
        "Phi-3",
        "causal, grouped queries, sliding window",
        attention_update=("resid_attn_dropout",),
        mlp_update="resid_mlp_dropout",
    ),
    Family(
        "bert",
        "BERT, MiniLM",
        "every key, two-sided",
        blocks="encoder.layer",
        attention="attention.self",
        attention_update=("attention.output.dropout",),
        mlp_update="output.dropout",
        down="output.dense",
        head=None,
        note="norms after each addition: resid has passed the block's last norm and is not the sum of the updates",
    ),
    Family("mixtral", "Mixtral", "causal, grouped queries, sliding window", down=None, router=Router("mlp.gate")),
    Family("qwen3_moe", "Qwen3-MoE", "causal, grouped queries", router=Router("mlp.gate")),
    Family("olmoe", "OLMoE", "causal, grouped queries", down=None, router=Router("mlp.gate")),
    Family(
        "deepseek_v3",
        "DeepSeek-V3",
        "causal, latent keys and values (shown expanded), values narrower than keys",
        router=Router("mlp.gate", "sigmoid", bias="e_score_correction_bias", shared="n_shared_experts"),
        note="the first blocks are dense; the update of the others includes the shared experts",
    ),
    Family(
        "gpt_oss",
        "gpt-oss",
        "causal, grouped queries, sliding window in every other layer, learned sinks",
        down=None,
        router=Router("mlp.router"),
    ),
    Family(
        "qwen3_next",
        "Qwen3-Next",
        "causal, grouped queries, gated output; other blocks are linear and show no attention",
        attention_update=("self_attn", "linear_attn"),
        router=Router("mlp.gate", shared="shared_expert_intermediate_size"),
        gate="self_attn.q_proj",
        note="the update of an expert block includes the shared expert",
    ),
)

#: By model_type of the config.
FAMILIES: dict[str, Family] = {row.model_type: row for row in _ROWS}

__all__ = ["FAMILIES", "Family", "Router"]

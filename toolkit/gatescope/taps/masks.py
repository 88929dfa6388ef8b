"""What a mask of another library means in the operator's words: a rule, padding, documents; never T x T of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from gatescope_kernels import Visibility
from jaxtyping import Bool, Int
from torch import Tensor

from gatescope.errors import UntappableModelError

#: What an error calls the module it is about; asked for only when there is one.
Where = Callable[[], str]

_OURS = "transformers.masking_utils"


@dataclass(frozen=True, slots=True)
class Mask:
    """Who sees whom in one attention of a Hugging Face model, as its own masking code said.

    visibility  causal, window
    key_mask    padding, by key; None without
    documents   of packed sequences; None without
    length      how many of the keys any row can see: a static cache holds more
    dropped     how many keys a sliding cache has dropped before the first it holds
    """

    visibility: Visibility
    key_mask: Bool[Tensor, "B S"] | None = None
    documents: Int[Tensor, "B T"] | None = None
    length: int | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Rules:
    causal: bool = False
    window: int | None = None
    documents: Tensor | None = None


def describe(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Mask:
    """The mask function for transformers' AttentionMaskInterface: a `Mask` where others build [B 1 T S].

    The rule is read from the functions that would be evaluated for every pair of positions, so it is the one the
    model's eager attention would follow, whatever else the model passes along. Raises UntappableModelError for a rule
    that the operator does not have: chunks, blocks that see each other, functions of the user.
    """
    rules, documents = _rules(mask_function), None
    first, dropped = int(q_offset), int(kv_offset)
    length = first + q_length - dropped
    if not rules.causal:
        if rules.window is not None and length != kv_length:
            _refuse(f"a two-sided window over {kv_length} keys and {q_length} queries from {first}")
        length = kv_length
    if length > kv_length:
        _refuse(f"queries up to position {first + q_length - 1} over keys up to {dropped + kv_length - 1}")
    key_mask = None
    if attention_mask is not None and not attention_mask.all():
        key_mask = attention_mask[:, dropped : dropped + length]
        key_mask = torch.nn.functional.pad(key_mask, (0, length - key_mask.shape[1]))
    if rules.documents is not None:
        documents = rules.documents.expand(batch_size, -1)
    return Mask(Visibility(causal=rules.causal, window=rules.window), key_mask, documents, length, dropped)


def _rules(function: Callable[..., Any] | None) -> _Rules:
    """What one of transformers' mask functions says, read from its name and the values it closes over."""
    name = getattr(function, "__qualname__", repr(function)).split(".")[0]
    if getattr(function, "__module__", None) != _OURS:
        return _refuse(f"the mask function {getattr(function, '__qualname__', function)!r}")
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {variable: cell.cell_contents for variable, cell in cells}
    match name:
        case "causal_mask_function":
            return _Rules(causal=True)
        case "bidirectional_mask_function":
            return _Rules()
        case "sliding_window_overlay":  # kv > q - window
            return _Rules(window=held["sliding_window"])
        case "sliding_window_bidirectional_overlay":  # |q - kv| <= window
            return _Rules(window=held["sliding_window"] + 1)
        case "packed_sequence_mask_function":
            return _Rules(documents=held["packed_sequence_mask"])
        case "remap_positions_for_packed_sequence":  # inside a document positions grow by one, as keys do
            return _rules(held["mask_function"])
        case "and_masks":
            return _both([_rules(part) for part in held["mask_functions"]])
    return _refuse(f"the mask function {name!r}")


def _both(parts: list[_Rules]) -> _Rules:
    windows = [part.window for part in parts if part.window is not None]
    documents = [part.documents for part in parts if part.documents is not None]
    if len(documents) > 1:
        _refuse("two packings at once")
    return _Rules(any(part.causal for part in parts), min(windows, default=None), next(iter(documents), None))


def _refuse(got: str) -> Any:
    raise UntappableModelError(
        "attention mask",
        "causal, sliding-window, padding or packed-documents masks",
        got,
        "give the model a plain 2-D attention_mask, or leave handlers of attention out",
    )


def recognise(mask: Tensor, T: int, S: int, where: Where) -> Mask:
    """The `Mask` that a tensor [... T|1 S] spells out, exactly.

    Boolean masks are True where a key may be read; floating ones are 0 there and -inf (or the lowest number) elsewhere.
    Known are: nothing hidden, padding, causality (the last row sees the last key), a window, and these together; a
    few rows are compared at a time. Raises UntappableModelError for any other.
    """
    if mask.dtype != torch.bool:
        seen = mask == 0
        if not bool((seen | (mask <= torch.finfo(mask.dtype).min)).all()):
            _refuse_tensor(where, "a mask that adds finite numbers to the logits")
        mask = seen
    mask = mask[(None,) * (4 - mask.dim())]
    if bool(mask.all()):
        return Mask(Visibility(causal=False))
    if bool((mask != mask[:, :1]).any()):
        _refuse_tensor(where, "a mask that differs between heads")
    mask = mask[:, 0]
    if mask.shape[1] not in (1, T) or mask.shape[2] not in (1, S):
        _refuse_tensor(where, f"a mask {tuple(mask.shape)} for {T} queries and {S} keys")
    mask = mask.expand(-1, -1, S)
    key_mask = mask.any(1)
    found = Mask(Visibility(causal=False), None if bool(key_mask.all()) else key_mask)
    for causal in (False, True):
        for window in (None, _farthest(mask, causal) + 1):
            rule = Visibility(causal=causal, window=window)
            if _spelled(mask, key_mask, rule):
                return replace(found, visibility=rule)
    return _refuse_tensor(where, "a mask that is no padding, causality or window")


def _spelled(mask: Bool[Tensor, "b T S"], key_mask: Bool[Tensor, "b S"], rule: Visibility) -> bool:
    """Whether ``mask`` is exactly ``rule`` over the keys of ``key_mask``."""
    for rows, reach in _reaches(mask):
        expected = key_mask[:, None].expand(-1, len(reach), -1)
        if rule.causal:
            expected = expected & (reach >= 0)
        if rule.window is not None:
            expected = expected & ((reach if rule.causal else reach.abs()) < rule.window)
        if not torch.equal(mask[:, rows], expected):
            return False
    return True


def _farthest(mask: Bool[Tensor, "b T S"], causal: bool) -> int:
    """How far back the farthest key lies that a row sees, or how far to either side."""
    far = (torch.where(mask[:, rows], reach if causal else reach.abs(), 0).max() for rows, reach in _reaches(mask))
    return max(int(x) for x in far)


def _reaches(mask: Bool[Tensor, "b T S"]) -> Iterator[tuple[slice, Int[Tensor, "t S"]]]:
    """Position of each row minus position of each key, for a few rows at a time."""
    (_, T, S), step = mask.shape, 128
    position, key = (torch.arange(low, S, device=mask.device) for low in (S - T, 0))
    for first in range(0, T, step):
        yield slice(first, first + step), position[first : first + step, None] - key


def _refuse_tensor(where: Where, got: str) -> Any:
    raise UntappableModelError(
        where(),
        "a mask of padding, causality or a sliding window",
        got,
        "leave handlers of attention out, or compute this attention by taps.attend",
    )


def without_mask(causal: bool, T: int, S: int, where: Where) -> Mask:
    """What torch's is_causal means: query i sees key j <= i, both counted from the first."""
    if not causal:
        return Mask(Visibility(causal=False))
    if T > S:
        raise UntappableModelError(
            where(),
            "as many keys as queries under is_causal",
            f"{T} queries, {S} keys",
            "pass the queries that have keys",
        )
    return Mask(Visibility(), length=T)


def refuse_dropout(p: float, where: Where) -> None:
    """Raises UntappableModelError for dropout on attention weights, which the operator does not have."""
    if p > 0:
        raise UntappableModelError(
            where(),
            "attention without dropout",
            f"dropout {p}",
            "call model.eval(), or set the attention dropout to 0 to watch training",
        )


__all__ = ["Mask", "Where", "describe", "recognise", "refuse_dropout", "without_mask"]

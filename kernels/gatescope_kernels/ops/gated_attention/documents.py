"""Packed sequences: from a document id a token to the first and last key that a row may see."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import check_device, check_tensor
from gatescope_kernels.ops.gated_attention.problem import OPERATOR

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


def extents(documents: Any, q: Tensor, S: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """The document [start, stop) of each row, int32.

    That ids do not decrease is read from their values: one reduction, and on a GPU one wait for the device.

    Raises Refusal for ids of another shape, dtype or device, for ids that decrease, and where T != S.
    """
    B, T = q.shape[0], q.shape[2]
    wanted = f"documents [B T] = {(B, T)} of integers, one id a token"
    check_tensor(OPERATOR, "documents [B T]", documents)
    if documents.dtype not in INTEGERS:
        raise Refusal(OPERATOR, wanted, str(documents.dtype), "convert with documents.long()")
    if T != S:
        raise Refusal(
            OPERATOR,
            "with documents, as many queries as keys",
            f"T = {T}, S = {S}",
            "pass the whole packed sequence, or documents=None and one document a sample",
        )
    if tuple(documents.shape) != (B, T):
        next_step = "pass ids.expand(B, -1) for one packing of all samples; ids from lengths: torch.repeat_interleave"
        raise Refusal(OPERATOR, wanted, str(tuple(documents.shape)), next_step)
    check_device(OPERATOR, "documents", documents, "q", q)
    falls = documents[:, 1:] < documents[:, :-1]
    if falls.any():
        b, i = falls.nonzero()[0].tolist()
        raise Refusal(
            OPERATOR,
            "document ids that do not decrease along a sequence",
            f"{documents[b, i]} before {documents[b, i + 1]} at token {i + 1} of sample {b}",
            "lay the tokens of a document side by side and number documents in their order",
        )
    position = torch.arange(T, dtype=torch.int32, device=q.device).expand(B, -1)
    first = torch.ones(B, T, dtype=torch.bool, device=q.device)
    first[:, 1:] = documents[:, 1:] > documents[:, :-1]
    start = torch.where(first, position, 0).cummax(1).values
    next_start = torch.where(first, position, T).roll(-1, 1)
    next_start[:, -1] = T
    return start, next_start.flip(1).cummin(1).values.flip(1)

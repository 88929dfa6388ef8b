"""What a record says, in sentences: every number is read from it, and every baseline too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.views import massive_table_frame
from gatescope.views.select import long_frame, pieces
from gatescope.views.style import number

#: An expert is overloaded from OVERLOAD times the even load on.
OVERLOAD = 2.0
_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A heading, sentences below it, and the rows they speak of."""

    title: str
    sentences: tuple[str, ...]
    frame: pd.DataFrame | None = None


def findings(record: xr.Dataset) -> list[Finding]:
    """What the record shows of sinks, massive activations, experts, entropy, value drain, gates and loss.

    A finding whose variables the record lacks is left out. Raises Refusal for counts of massive activations that do not
    say by which rule they were counted.
    """
    return [found for names, say in _TABLE if set(names) <= set(record.data_vars) for found in say(record)]


def _sinks(record: xr.Dataset) -> Iterator[Finding]:
    score = record["sink_score"]
    key = int(score["chosen"].values[0])
    frame = long_frame(score.isel(chosen=0, drop=True), "sink_score")
    frame = frame.merge(long_frame(record["first_attention"]), on=["layer", "head"]).dropna()
    epsilon = record["sink_share"].attrs["epsilon"]
    sinks = frame[frame["sink_score"] > epsilon].sort_values("sink_score", ascending=False, kind="stable")
    named = "; ".join(
        f"layer {row.layer}, head {row.head}: {number(row.sink_score)}" for row in sinks[:_NAMED].itertuples()
    )
    share = f"{len(sinks)} of {len(frame)} heads ({number(100 * len(sinks) / max(len(frame), 1))} %)"
    text = pieces(record, [key])[0]
    spelled = f" {text!r}" if text else ""
    yield Finding(
        f"Sinks: {len(sinks)} of {len(frame)} heads",
        (
            f"{share} hold a sink at token {key}{spelled}: their sink score (Gu et al.) is above {epsilon}, "
            f"where uniform attention would give {_baseline(score)}." + (f" Strongest: {named}." if named else ""),
            f"On average a head gives {number(frame['first_attention'].mean())} of its attention to the first token "
            f"(F-Attn); uniform attention would give {_baseline(record['first_attention'])}.",
        ),
        sinks,
    )


def _massive(record: xr.Dataset) -> Iterator[Finding]:
    every = massive_table_frame(record, rows=record["top_value"].size)
    layers = record["massive_count"]
    if not {"floor", "ratio"} <= layers.attrs.keys():
        raise Refusal(
            "findings",
            "the rule of massive_count, as its attributes floor and ratio",
            "a record without, made by an older version",
            "measure again",
        )
    floor, ratio = layers.attrs["floor"], layers.attrs["ratio"]
    massive = every[(every["value"] > floor) & (every["times_median"] >= ratio)]
    having = int((layers > 0).sum())
    rule = f"above {floor:.0f} and at least {ratio:,.0f} times the median of its layer (Sun et al.)"
    if massive.empty:
        top = every.iloc[0]
        yield Finding(
            "Massive activations: none",
            (
                f"No hidden value is {rule}. The largest is {number(top['value'])}, "
                f"{number(top['times_median'])} times the median of layer {top['layer']:.0f}, in dimension "
                f"{top['dim']:.0f} at token {top['token']:.0f}.",
            ),
        )
        return
    rows = []
    for dim, group in massive.groupby("dim"):
        top = group.iloc[0]
        at = sorted(set(group["token"].tolist()))
        texts = [
            f"{token} {text!r}" if text else f"{token}" for token, text in zip(at, pieces(record, at), strict=True)
        ]
        lowest, highest = int(group["layer"].min()), int(group["layer"].max())
        rows.append((int(dim), lowest, highest, ", ".join(texts), float(top["value"]), float(top["times_median"])))
    columns = ["dimension", "first layer", "last layer", "tokens", "largest", "times the median"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("largest", ascending=False, ignore_index=True)
    words = "; ".join(
        f"dimension {row[0]}, layers {row[1]} to {row[2]}, up to {number(row[4])} at token {row[3]}"
        for row in frame.head(_NAMED).itertuples(index=False, name=None)
    )
    yield Finding(
        f"Massive activations: {len(frame)} dimension{'s' if len(frame) > 1 else ''} among the ranked",
        (
            f"A hidden value is massive when it is {rule}. {having} of {layers.size} layers hold some.",
            f"Of the {record.sizes['rank']} largest of every layer: {words}.",
        ),
        frame,
    )


def _experts(record: xr.Dataset) -> Iterator[Finding]:
    load = record["expert_load"]
    frame = long_frame(load).dropna()
    frame["times even"] = frame["expert_load"] * record.sizes["expert"]
    dead, busy = frame[frame["expert_load"] == 0], frame[frame["times even"] >= OVERLOAD]
    busy = busy.sort_values("times even", ascending=False, kind="stable")
    window = load.attrs.get("window_tokens")
    seen = f" in {window:,} tokens" if window else ""
    named = "; ".join(
        f"layer {row[0]}, expert {row[1]}: {number(row[3])} times"
        for row in busy[:_NAMED].itertuples(index=False, name=None)
    )
    gone = "; ".join(f"layer {row.layer}, expert {row.expert}" for row in dead[:_NAMED].itertuples())
    tail = " and others" if len(dead) > _NAMED else ""
    yield Finding(
        f"Experts: {len(dead)} dead, {len(busy)} overloaded, of {len(frame)}",
        (
            f"{len(dead)} of {len(frame)} experts served no token{seen}" + (f": {gone}{tail}." if gone else "."),
            f"{len(busy)} served {OVERLOAD:.0f} times the even load of {_baseline(load)} or more"
            + (f": {named}." if named else "."),
        ),
        pd.concat([dead, busy], ignore_index=True),
    )


def _entropy(record: xr.Dataset) -> Iterator[Finding]:
    frame = long_frame(record["entropy_normalised"]).dropna().sort_values("entropy_normalised", kind="stable")
    if frame.empty:
        return
    low, high = frame.iloc[0], frame.iloc[-1]
    yield Finding(
        f"Entropy: {number(low['entropy_normalised'])} to {number(high['entropy_normalised'])} of its maximum",
        (
            f"Most focused is layer {low['layer']:.0f}, head {low['head']:.0f} with "
            f"{number(low['entropy_normalised'])} of the largest possible entropy; most spread out is layer "
            f"{high['layer']:.0f}, head {high['head']:.0f} with {number(high['entropy_normalised'])}. "
            f"Uniform attention has {_baseline(record['entropy_normalised'])}; the mean here is "
            f"{number(frame['entropy_normalised'].mean())}.",
        ),
        pd.concat([frame.head(_NAMED), frame.tail(_NAMED)]).drop_duplicates(ignore_index=True),
    )


def _drain(record: xr.Dataset) -> Iterator[Finding]:
    frame = long_frame(record["value_drain"]).dropna().sort_values("value_drain", kind="stable")
    if frame.empty:
        return
    low, below = frame.iloc[0], frame[frame["value_drain"] < 1]
    yield Finding(
        f"Value drain: the first value has {number(frame['value_drain'].median())} of the others' norm",
        (
            f"That is the median over layers and key-value heads; {_baseline(record['value_drain'])} would be no "
            f"drain. {len(below)} of {len(frame)} lie below one, the lowest in layer {low['layer']:.0f}, "
            f"key-value head {low['kv_head']:.0f} with {number(low['value_drain'])}.",
        ),
        frame.head(2 * _NAMED),
    )


def _gates(record: xr.Dataset) -> Iterator[Finding]:
    mean, closed = record["gate_mean"], record["gate_closed"]
    yield Finding(
        f"Gates: mean score {number(float(mean.mean()))}",
        (
            f"Scores average from {number(float(mean.min()))} to {number(float(mean.max()))} over gate heads; "
            f"{number(100 * float(closed.mean()))} % are closed (below 0.1), where scores spread evenly would give "
            f"{_baseline(closed)} of 1.",
        ),
    )


def _loss(record: xr.Dataset) -> Iterator[Finding]:
    loss = record["next_token_loss"]
    mean = float(loss.mean())
    yield Finding(
        f"Loss: {number(mean)} nats a token",
        (
            f"Mean over {int(loss.notnull().sum()):,} tokens, perplexity {number(float(np.exp(mean)))}. A model that "
            f"knows nothing would have {_baseline(loss)} nats.",
        ),
    )


def _baseline(data: xr.DataArray) -> str:
    value = data.attrs.get("baseline_value")
    return "an unknown value" if value is None else number(float(value))


_TABLE: tuple[tuple[tuple[str, ...], Callable[[xr.Dataset], Iterator[Finding]]], ...] = (
    (("sink_score", "sink_share", "first_attention"), _sinks),
    (("top_value", "top_token", "top_dim", "magnitude_median", "massive_count"), _massive),
    (("expert_load",), _experts),
    (("entropy_normalised",), _entropy),
    (("value_drain",), _drain),
    (("gate_mean", "gate_closed"), _gates),
    (("next_token_loss",), _loss),
)

__all__ = ["OVERLOAD", "Finding", "findings"]

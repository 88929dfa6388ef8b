"""One legend for every array in the project: letters in shapes, names of record dimensions, labels of plot axes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension: its letter in shapes, its name in records, what it counts, and the label an axis gets."""

    letter: str
    name: str
    counts: str
    label: str


_TABLE = (
    Dim("B", "sample", "sequences in a batch", "sequence"),
    Dim("T", "token", "query positions", "position (tokens)"),
    Dim("S", "key", "key positions", "key position (tokens)"),
    Dim("H", "head", "query heads", "head"),
    Dim("G", "kv_head", "key-value heads (groups of query heads share one)", "key-value head"),
    Dim("K", "key_channel", "channels of a query or key", "key channel"),
    Dim("V", "value_channel", "channels of a value", "value channel"),
    Dim("D", "dim", "channels of the residual stream", "hidden dimension"),
    Dim("F", "hidden", "channels inside the MLP", "MLP channel"),
    Dim("E", "expert", "routed experts", "expert"),
    Dim("L", "layer", "blocks of the model", "layer"),
    Dim("N", "chosen", "keys chosen for a statistic", "chosen key"),
    Dim("W", "gate_channel", "channels of a gate: 1 (head-wise) or as wide as what it gates", "gate channel"),
    # Record dimensions that no tensor shape spells.
    Dim("", "record", "records compared with each other", "record"),
    Dim("", "step", "optimiser steps", "training step"),
    Dim("", "variant", "model variants compared", "variant"),
    Dim("", "seed", "random seeds", "seed"),
    Dim("", "text", "texts measured", "text"),
    Dim("", "rank", "places in a ranking, largest first", "rank"),
    Dim("", "bin", "histogram bins", "gate score"),
    Dim("", "gate_head", "heads a gate has scores for (query heads, key-value heads, or 1 when shared)", "gate head"),
    Dim("", "setting", "positions of an intervention", "setting"),
    Dim("", "other_expert", "routed experts, beside the one in question", "other expert"),
    Dim("", "choice", "experts a token visits, in the router's order", "choice"),
    Dim("", "site", "places in a block where the same thing is measured", "site"),
    Dim("", "scaling", "what shares one scale when numbers are rounded", "scaling"),
    Dim("", "parameter", "weights of a model, by name", "parameter"),
    Dim("", "sample_size", "samples that an estimate is made from", "sample size n"),
    Dim("", "point", "samples of a data set, or points of a grid", "point"),
    Dim("", "true_expert", "experts of the model that made the data", "true expert"),
    Dim("", "group", "groups of tokens named by the user, such as clusters or languages", "group of tokens"),
    Dim("", "pairs", "keys bound to values in a sequence", "key-value pairs"),
    Dim("", "length", "tokens of a sequence", "sequence length T (tokens)"),
    Dim("", "form", "ways to compute the same", "form"),
    Dim("", "pattern", "N:M patterns, as N:M", "pattern N:M"),
    Dim("", "kept", "shares of a model's weights that pruning left", "share of weights that stay"),
    Dim("", "start", "what a pruned network is trained from", "start"),
    Dim("", "rule", "ways to come to an N:M network", "way of training"),
    Dim("", "mode", "operating modes, by the share of keys that hold most of the attention", "operating mode"),
    Dim("", "beta", "inverse temperatures", "inverse temperature β"),
    Dim("", "dimension", "dimensions of the space that stored patterns lie in", "dimension d"),
    Dim("", "update", "updates of a memory, 0 is the query", "update"),
    Dim("", "stored", "patterns that a memory holds", "stored pattern"),
    Dim("", "part", "parts of a sequence", "part of the sequence"),
    Dim("", "scorer", "what chooses the key blocks that are read", "what chooses blocks"),
    Dim("", "policy", "what chooses the keys that stay in a cache", "cache policy"),
    Dim("", "share", "shares of the visible key blocks that are read", "share of blocks read"),
    Dim("", "keys_kept", "keys that a head keeps in its cache", "keys kept a head"),
    Dim("", "query_block", "blocks of queries", "query block"),
    Dim("", "key_block", "blocks of keys", "key block"),
    Dim("", "lr", "learning rates", "learning rate"),
    Dim("", "law", "laws fitted to a series", "law"),
    Dim("", "fixed_point", "kinds of fixed point of a memory", "kind of fixed point"),
    Dim("", "edge", "edges of a cell that is searched, as source→node", "edge of the cell"),
    Dim("", "operation", "candidate operations of an edge", "operation"),
    Dim("", "picture", "images shown side by side", "image"),
    Dim("", "pixel", "pixels of an image, row by row", "pixel"),
    Dim("", "trade", "prices of a whole network's compute, in nats of loss", "price of compute λ (nats)"),
    Dim("", "budget", "shares of all learners that may run", "budget (share of all learners)"),
    Dim("", "exit", "places where a network can be left, 0 the first", "exit"),
    Dim("", "learner", "learners that a token runs", "learners a token"),
    Dim("", "program", "instances of a kernel, in the order in which they run", "program"),
    Dim("", "cell", "elements of the tensors that a kernel touches", "element"),
)

#: Record name -> Dim.
DIMS: dict[str, Dim] = {dim.name: dim for dim in _TABLE}
#: Shape letter -> Dim.
LETTERS: dict[str, Dim] = {dim.letter: dim for dim in _TABLE if dim.letter}


def axis_label(name: str) -> str:
    """The label of an axis that runs along record dimension ``name``. Raises KeyError for a name not in the legend."""
    return DIMS[name].label

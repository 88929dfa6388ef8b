"""The space that is searched: cells of a few nodes, one operation an edge; and ways to choose a point of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gatescope.errors import NonFiniteError, Refusal
from gatescope.search.operations import OPERATIONS, ZERO


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """An operation between two nodes of a cell; node 0 is the cell's input."""

    node: int
    source: int
    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Networks of a stem, ``cells`` cells that all have the same edges, 2 x 2 averages between them, and a linear map.

    operations  candidates of an edge, names of OPERATIONS
    nodes       of a cell beside its input; each adds up its edges from earlier ones, and their mean leaves the cell
    keep        edges into a node that a derived architecture has, where there are as many
    cells       after one another
    channels    of every image inside
    classes     logits that come out
    pooled      height and width, at most, of the image that the linear map reads

    Raises Refusal for sizes below 1, unknown or repeated operations, and where none is left but "zero".

    Source: after Liu et al. 2018 (DARTS), smaller: a cell has one input instead of two, gives the mean of its nodes
    instead of all of them, there are no reduction cells, and norms are over an image instead of a batch.
    """

    operations: tuple[str, ...] = tuple(OPERATIONS)
    nodes: int = 3
    keep: int = 2
    cells: int = 2
    channels: int = 16
    classes: int = 10
    pooled: int = 4

    def __post_init__(self) -> None:
        for name in ("nodes", "keep", "cells", "channels", "classes", "pooled"):
            if getattr(self, name) < 1:
                raise Refusal("SearchSpace", f"{name} >= 1", f"{getattr(self, name)}", "pass a positive number")
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or len(set(self.operations)) < len(self.operations):
            wanted = f"different operations of {', '.join(OPERATIONS)}"
            raise Refusal("SearchSpace", wanted, ", ".join(unknown or self.operations), "check the names")
        if not self.choices:
            raise Refusal("SearchSpace", "an operation other than 'zero'", f"{self.operations}", "add 'skip'")

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(source, node) of every edge that a cell could have, by node."""
        return tuple((source, node) for node in range(1, self.nodes + 1) for source in range(node))

    @property
    def choices(self) -> tuple[str, ...]:
        """The operations that an edge of an architecture can be: all but "zero"."""
        return tuple(name for name in self.operations if name != ZERO)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One cell: its edges, in order. Raises Refusal for none, for an edge that does not lead forward, for two between
    the same nodes, for a node without an edge into it, and for an unknown operation."""

    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(sorted(self.edges)))
        wrong = [edge for edge in self.edges if not 0 <= edge.source < edge.node or edge.operation not in OPERATIONS]
        wrong += [edge for edge in self.edges if edge.operation == ZERO]
        if wrong or not self.edges:
            raise Refusal("Architecture", "edges that lead forward, by operations", f"{wrong}", "source < node")
        places = [(edge.source, edge.node) for edge in self.edges]
        if len(set(places)) < len(places):
            raise Refusal("Architecture", "one edge between two nodes", f"{places}", "leave one of them out")
        reached = {edge.node for edge in self.edges}
        if reached != set(range(1, max(reached) + 1)):
            raise Refusal("Architecture", "an edge into every node", f"into {sorted(reached)} only", "add the others")

    @property
    def nodes(self) -> int:
        """Nodes beside the input."""
        return self.edges[-1].node

    @property
    def by_place(self) -> dict[tuple[int, int], str]:
        """(source, node) -> operation."""
        return {(edge.source, edge.node): edge.operation for edge in self.edges}

    def weights(self, channels: int) -> int:
        """Weights of one cell of so many channels, before any are cut."""
        return sum(OPERATIONS[edge.operation].weights(channels) for edge in self.edges)

    def differs(self, other: Architecture, space: SearchSpace) -> float:
        """Share of the edges of ``space`` that are not the same in both; an edge that neither has is the same."""
        ours, theirs = self.by_place, other.by_place
        return sum(ours.get(place) != theirs.get(place) for place in space.edges) / len(space.edges)


def derive(space: SearchSpace, weights: Float[np.ndarray, "edges operations"]) -> Architecture:
    """The architecture that the weights of all candidates speak for.

    Of every edge the best operation other than "zero"; of the edges into a node those ``space.keep`` whose best weighs
    most. Of equal weights the first.

    Raises Refusal for another shape, NonFiniteError for NaN.

    Source: Liu et al. 2018 (DARTS), section 2.4.
    """
    wanted = (len(space.edges), len(space.operations))
    if weights.shape != wanted:
        raise Refusal("derive", f"weights of shape {wanted}", f"{weights.shape}", "one row an edge of the space")
    if not np.isfinite(weights).all():
        raise NonFiniteError("derive", "finite weights", "NaN or infinity", "look for a step that diverged")
    columns = [space.operations.index(name) for name in space.choices]
    best = weights[:, columns].argmax(1)
    score = weights[:, columns].max(1)
    edges = []
    for node in range(1, space.nodes + 1):
        into = [row for row, (_, to) in enumerate(space.edges) if to == node]
        kept = sorted(into, key=lambda row: -score[row])[: space.keep]
        edges += [Edge(node, space.edges[row][0], space.choices[best[row]]) for row in kept]
    return Architecture(tuple(edges))


def random_architecture(space: SearchSpace, seed: int) -> Architecture:
    """A point of the space: edges into a node and their operations drawn uniformly."""
    random = np.random.default_rng(seed)
    edges = []
    for node in range(1, space.nodes + 1):
        sources = random.choice(node, size=min(space.keep, node), replace=False)
        edges += [Edge(node, int(source), space.choices[random.integers(len(space.choices))]) for source in sources]
    return Architecture(tuple(edges))


def uniform_architecture(space: SearchSpace, operation: str) -> Architecture:
    """The same operation on the edges from the nearest ``space.keep`` nodes. Raises Refusal for one that is none."""
    nodes = range(1, space.nodes + 1)
    return Architecture(
        tuple(Edge(node, source, operation) for node in nodes for source in range(max(0, node - space.keep), node))
    )


__all__ = ["Architecture", "Edge", "SearchSpace", "derive", "random_architecture", "uniform_architecture"]

"""Spaces and architectures: what is derived from weights, what is drawn, what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from gatescope.errors import NonFiniteError, Refusal
from gatescope.search import (
    OPERATIONS,
    Architecture,
    Edge,
    Network,
    SearchSpace,
    derive,
    random_architecture,
    random_search,
    uniform_architecture,
)


def by_hand(space: SearchSpace, weights: np.ndarray) -> set[tuple[int, int, str]]:
    """DARTS's rule, with lists."""
    found = set()
    for node in range(1, space.nodes + 1):
        into = []
        for row, (source, to) in enumerate(space.edges):
            if to == node:
                best = max((w, name) for w, name in zip(weights[row], space.operations, strict=True) if name != "zero")
                into.append((best[0], source, best[1]))
        into.sort(reverse=True)
        found |= {(source, node, name) for _, source, name in into[: space.keep]}
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 2, 4])
def test_derived_is_what_a_loop_says(seed: int, keep: int) -> None:
    space = SearchSpace(keep=keep)
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(space.operations)), len(space.edges))
    found = derive(space, weights)
    assert {(edge.source, edge.node, edge.operation) for edge in found.edges} == by_hand(space, weights)


def test_zero_is_never_derived_and_ties_go_to_the_first() -> None:
    space = SearchSpace(nodes=2, keep=1, operations=("zero", "skip", "conv 1x1"))
    weights = np.tile([0.9, 0.05, 0.05], (3, 1))
    assert derive(space, weights) == Architecture((Edge(1, 0, "skip"), Edge(2, 0, "skip")))


def test_one_candidate_leaves_no_choice() -> None:
    space = SearchSpace(operations=("conv 1x1",), nodes=1, cells=1)
    only = Architecture((Edge(1, 0, "conv 1x1"),))
    assert derive(space, np.ones((1, 1))) == random_architecture(space, 4) == only


def test_drawn_architectures_are_of_the_space_and_spread_evenly() -> None:
    space = SearchSpace()
    drawn = [random_architecture(space, seed) for seed in range(300)]
    assert drawn[7] == random_architecture(space, 7) != drawn[8]
    operations = Counter(edge.operation for one in drawn for edge in one.edges)
    assert set(operations) == set(space.choices)
    expected = 300 * 5 / len(space.choices)
    assert all(0.7 * expected < count < 1.3 * expected for count in operations.values())
    assert {len(one.edges) for one in drawn} == {5}


def test_differences_are_counted_over_all_edges() -> None:
    space = SearchSpace(nodes=2)
    plain = uniform_architecture(space, "skip")
    changed = Architecture((Edge(1, 0, "skip"), Edge(2, 0, "conv 1x1"), Edge(2, 1, "skip")))
    fewer = Architecture((Edge(1, 0, "skip"), Edge(2, 1, "skip")))
    assert plain.differs(plain, space) == 0
    assert plain.differs(changed, space) == plain.differs(fewer, space) == pytest.approx(1 / 3)
    assert changed.differs(fewer, space) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "zero"])
def test_weights_are_counted_as_networks_have_them(name: str) -> None:
    space = SearchSpace(nodes=1, cells=1)
    architecture = uniform_architecture(space, name)
    network = Network(space, architecture)
    assert architecture.weights(16) == sum(weight.numel() for weight in network.cells.parameters())


def test_random_search_puts_the_best_first_and_refuses_none() -> None:
    space = SearchSpace(nodes=2)

    def size(one: Architecture) -> float:
        return float(one.weights(16))

    found = random_search(space, size, 6, seed=3)
    assert [one.score for one in found] == sorted((size(one.architecture) for one in found), reverse=True)
    assert found == random_search(space, size, 6, seed=3) != random_search(space, size, 6, seed=4)
    with pytest.raises(Refusal, match="candidates >= 1"):
        random_search(space, size, 0)
    with pytest.raises(NonFiniteError, match="scores that are numbers"):
        random_search(space, lambda one: float("nan"), 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SearchSpace(nodes=0), "nodes >= 1"),
        (lambda: SearchSpace(operations=("skip", "conv 9x9")), "conv 9x9"),
        (lambda: SearchSpace(operations=("skip", "skip")), "different operations"),
        (lambda: SearchSpace(operations=("zero",)), "other than 'zero'"),
        (lambda: Architecture(()), "edges that lead forward"),
        (lambda: Architecture((Edge(1, 1, "skip"),)), "edges that lead forward"),
        (lambda: Architecture((Edge(1, 0, "zero"),)), "edges that lead forward"),
        (lambda: Architecture((Edge(1, 0, "skip"), Edge(1, 0, "conv 1x1"))), "one edge between"),
        (lambda: Architecture((Edge(2, 0, "skip"),)), "an edge into every node"),
        (lambda: derive(SearchSpace(), np.ones((2, 2))), r"weights of shape \(6, 7\)"),
        (lambda: derive(SearchSpace(nodes=1), np.full((1, 7), np.nan)), "finite weights"),
        (lambda: Network(SearchSpace(), uniform_architecture(SearchSpace(nodes=1), "skip")), "1 of 3"),
    ],
)
def test_refusals(make, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        make()

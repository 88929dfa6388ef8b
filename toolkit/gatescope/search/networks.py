"""Networks of a search space: the supernet, in which every edge is all candidates at once, and one architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.search.operations import OPERATIONS, convolution, mixed, norm
from gatescope.search.space import Architecture, SearchSpace, derive

#: Name of the layer that reads the image; it has nine weights a channel, and stays dense.
STEM = "stem"
Place = tuple[int, int]


class _Body(nn.Module):
    """What both kinds of network share: a stem, cells one after another, a linear map."""

    def __init__(self, space: SearchSpace, init_seed: int) -> None:
        super().__init__()
        self.space = space
        self._generator = torch.Generator().manual_seed(init_seed)
        self.stem = convolution(1, space.channels, 3, self._generator)
        self.norm = norm(space.channels)
        self.cells = nn.ModuleList()

    def _add_head(self) -> None:
        """The head is drawn last."""
        space = self.space
        self.head = nn.utils.skip_init(nn.Linear, space.channels * space.pooled**2, space.classes)
        nn.init.xavier_normal_(self.head.weight, generator=self._generator)
        nn.init.zeros_(self.head.bias)

    def _through(
        self, images: Float[Tensor, "B height width"], edges: Mapping[Place, Callable[[int, Tensor], Tensor]]
    ) -> Float[Tensor, "B classes"]:
        x = self.norm(self.stem(images[:, None]))
        for cell in range(self.space.cells):
            if cell:
                x = functional.avg_pool2d(x, 2, ceil_mode=True)
            states = [x]
            for node in range(1, self.space.nodes + 1):
                into = [(source, along) for (source, to), along in edges.items() if to == node]
                states.append(sum_of([along(cell, states[source]) for source, along in into]))
            x = torch.stack(states[1:]).mean(0)
        pooled = functional.adaptive_avg_pool2d(x, self.space.pooled)
        return self.head(pooled.flatten(1))


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape, one at least."""
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class Supernet(_Body):
    """Images to logits; every edge is the mixture of all candidates.

        node_j = sum over i < j of  sum_o softmax(alpha_ij)_o f_o(node_i)        (Liu et al. 2018, eq. 2)

    ``alpha`` [edges operations] is shared by all cells and starts at 0; the weights of operations are of each cell.
    """

    def __init__(self, space: SearchSpace, *, init_seed: int = 0) -> None:
        super().__init__(space, init_seed)
        for _ in range(space.cells):
            rows = ([_built(name, space, self._generator) for name in space.operations] for _ in space.edges)
            self.cells.append(nn.ModuleList([nn.ModuleList(row) for row in rows]))
        self._add_head()
        self.alpha = nn.Parameter(torch.zeros(len(space.edges), len(space.operations)))

    def forward(self, images: Float[Tensor, "B height width"]) -> Float[Tensor, "B classes"]:
        weights = self.alpha.softmax(-1)
        edges = {place: partial(self._along, row, weights[row]) for row, place in enumerate(self.space.edges)}
        return self._through(images, edges)

    def _along(self, row: int, weights: Tensor, cell: int, x: Tensor) -> Tensor:
        candidates = self.cells[cell][row]  # type: ignore[index]
        return mixed([None if isinstance(candidate, _Zero) else candidate(x) for candidate in candidates], weights)

    @property
    def operation_weights(self) -> Float[np.ndarray, "edges operations"]:
        """softmax(alpha) of every edge."""
        return self.alpha.detach().softmax(-1).double().numpy()

    @property
    def architecture(self) -> Architecture:
        """What `derive` makes of the present weights."""
        return derive(self.space, self.operation_weights)


class Network(_Body):
    """Images to logits by one architecture. Raises Refusal for an architecture with other nodes than the space."""

    def __init__(self, space: SearchSpace, architecture: Architecture, *, init_seed: int = 0) -> None:
        super().__init__(space, init_seed)
        if architecture.nodes != space.nodes:
            got = f"{architecture.nodes} of {space.nodes}"
            raise Refusal("Network", "an architecture with the nodes of its space", got, "derive it from this space")
        self.architecture = architecture
        for _ in range(space.cells):
            built = [_built(edge.operation, space, self._generator) for edge in architecture.edges]
            self.cells.append(nn.ModuleList(built))
        self._add_head()

    def forward(self, images: Float[Tensor, "B height width"]) -> Float[Tensor, "B classes"]:
        places = enumerate(self.architecture.by_place)
        return self._through(images, {place: partial(self._along, row) for row, place in places})

    def _along(self, row: int, cell: int, x: Tensor) -> Tensor:
        return self.cells[cell][row](x)  # type: ignore[index]


class _Zero(nn.Module):
    """Holds the place of the operation that is not computed."""


def _built(name: str, space: SearchSpace, generator: torch.Generator) -> nn.Module:
    build = OPERATIONS[name].build
    return _Zero() if build is None else build(space.channels, generator)


__all__ = ["STEM", "Network", "Supernet"]

"""Search: which operations a small image network is made of. A cell space, a supernet that mixes all candidates, the
bilevel search for their weights, dense or sparse, and random search.

    space = SearchSpace()
    search = Search(space, SearchSpec(sparsity=0.99), train=..., validation=...)
    for step in search:                 # leaving this loop pauses the search
        ...
    network = Network(space, search.architecture, init_seed=0)
"""

from gatescope.search.bilevel import Search, SearchSpec, SearchStep
from gatescope.search.networks import STEM, Network, Supernet
from gatescope.search.operations import OPERATIONS, Operation, mixed
from gatescope.search.random_search import Scored, random_search
from gatescope.search.space import Architecture, Edge, SearchSpace, derive, random_architecture, uniform_architecture

__all__ = [
    "OPERATIONS",
    "STEM",
    "Architecture",
    "Edge",
    "Network",
    "Operation",
    "Scored",
    "Search",
    "SearchSpace",
    "SearchSpec",
    "SearchStep",
    "Supernet",
    "derive",
    "mixed",
    "random_architecture",
    "random_search",
    "uniform_architecture",
]

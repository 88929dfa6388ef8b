"""An error comes back from another process as it was raised."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from gatescope.errors import DataError, NonFiniteError, Refusal, UntappableModelError


def refuse(kind: type[Refusal]) -> None:
    raise kind("op", "a number", "none", "give one")


@pytest.mark.parametrize("kind", [Refusal, DataError, NonFiniteError, UntappableModelError])
def test_a_refusal_comes_back_from_a_worker(kind: type[Refusal]) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool, pytest.raises(kind) as caught:
        pool.submit(refuse, kind).result(timeout=60)
    assert str(caught.value) == "op: wanted a number, got none; give one"
    assert caught.value.next_step == "give one"

"""Points on a Dask cluster: the address of its scheduler is all that is needed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from gatescope.errors import Refusal
from gatescope.studies.executors import Place


def dask(scheduler: str, timeout_s: float = 30.0) -> Place:
    """The workers of the scheduler at ``scheduler``, such as tcp://host:8786; each measures one point at a time.

    Workers need this checkout installed, and nothing of the store: records come back to whoever runs the study. A point
    whose worker dies is given to another; workers that join later are used.

    timeout_s  how long to wait for the scheduler and its first worker, and for a scheduler that went silent

    Raises Refusal where distributed is not installed; opening it, when nothing answers or no worker comes.
    """
    try:
        import distributed  # noqa: F401  (said now, not after the first point)
    except ImportError as error:
        step = "pip install distributed, or leave --scheduler out to run here"
        raise Refusal("study run --scheduler", "the package distributed", str(error), step) from error
    return Place(
        f"the Dask scheduler at {scheduler}",
        open=lambda: _Cluster(scheduler, timeout_s),
        slots=lambda executor: _cluster(executor).workers(),
        alive=lambda executor: _cluster(executor).alive(),
        stop=lambda executor: executor.shutdown(wait=False),
    )


class _Cluster(Executor):
    """A client as an executor that ends with it."""

    def __init__(self, scheduler: str, timeout_s: float) -> None:
        import dask
        from distributed import Client

        dask.config.set({"distributed.comm.timeouts.connect": f"{timeout_s}s"})
        try:
            self._client = Client(scheduler, timeout=timeout_s, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            step = "start one with `dask scheduler`, and check the address it prints"
            raise Refusal("study run --scheduler", f"a Dask scheduler at {scheduler}", repr(error), step) from error
        try:
            self._client.wait_for_workers(1, timeout=timeout_s)
        except TimeoutError as error:
            self._client.close(timeout=1)
            step = f"start workers with `dask worker {scheduler} --nthreads 1`, one a core"
            raise Refusal("study run --scheduler", f"a worker of {scheduler}", "none", step) from error
        self._inner = self._client.get_executor(pure=False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As any executor."""
        return self._inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give back what is not begun, and close the connection."""
        if self.alive():
            self._inner.shutdown(wait=wait and not cancel_futures)
        self._client.close(timeout=1)

    def alive(self) -> bool:
        """Whether the scheduler answers, or may still."""
        return self._client.status in ("running", "connecting")

    def workers(self) -> int:
        """How many there are now; one when the scheduler does not say, which `alive` will notice."""
        try:
            return len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, TimeoutError):
            return 1


def _cluster(executor: Executor) -> _Cluster:
    assert isinstance(executor, _Cluster)
    return executor


__all__ = ["dask"]

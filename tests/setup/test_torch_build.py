"""Which build of torch a machine gets, and what happens when the CPU index cannot be reached."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch_build


@pytest.mark.parametrize(
    ("system", "driver", "env", "reachable", "options", "refuse_cuda"),
    [
        ("Darwin", False, {}, False, (), False),
        ("Linux", True, {}, True, (), False),
        ("Linux", False, {}, True, ("--extra-index-url", torch_build.CPU_INDEX), True),
        ("Linux", False, {}, False, (), True),
        ("Linux", False, {"TORCH_INDEX": ""}, True, (), True),
        ("Linux", False, {"TORCH_INDEX": "/wheels"}, True, ("--extra-index-url", "/wheels"), True),
        ("Linux", False, {"GATESCOPE_ALLOW_CUDA": "1"}, False, (), False),
        ("Linux", False, {"GATESCOPE_ALLOW_CUDA": "0"}, False, (), True),
    ],
)
def test_plan(
    system: str, driver: bool, env: dict[str, str], reachable: bool, options: tuple[str, ...], refuse_cuda: bool
) -> None:
    plan = torch_build.plan(env, system=system, driver=driver, reachable=lambda _: reachable)
    assert (plan.options, plan.refuse_cuda) == (options, refuse_cuda)
    assert "to download" in plan.says[0]


def test_an_unreachable_index_is_named() -> None:
    plan = torch_build.plan({}, system="Linux", driver=False, reachable=lambda _: False)
    assert torch_build.CPU_INDEX in plan.says[1]
    assert "cannot be reached" in plan.says[1]


def test_a_local_index_is_reachable_when_it_exists(tmp_path: Path) -> None:
    assert torch_build.is_reachable(tmp_path.as_uri())
    assert torch_build.is_reachable(str(tmp_path))
    assert not torch_build.is_reachable(str(tmp_path / "none"))


def test_a_hanging_name_lookup_does_not_hang_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, over = [], threading.Event()

    def hang(*_: object, **__: object) -> None:
        asking.append(threading.current_thread())
        over.wait(60)
        raise OSError("the name was never found")

    monkeypatch.setattr(torch_build.urllib.request, "urlopen", hang)
    # The wait is one second longer than what urlopen is given.
    assert not torch_build.is_reachable("https://index.invalid/whl", seconds=-0.9)
    assert asking[0].is_alive()
    over.set()
    asking[0].join()


def _report(*names: str) -> dict[str, list[dict[str, dict[str, str]]]]:
    return {"install": [{"metadata": {"name": name}} for name in names]}


@pytest.mark.parametrize(
    ("names", "cuda"),
    [
        (("torch", "sympy", "filelock"), []),
        (("torch", "nvidia-cudnn-cu13", "cuda-toolkit", "sympy"), ["cuda-toolkit", "nvidia-cudnn-cu13"]),
        (("torch", "NVIDIA_cublas"), ["nvidia_cublas"]),
        ((), []),
    ],
)
def test_a_cuda_build_is_known_by_the_libraries_it_brings(names: tuple[str, ...], cuda: list[str]) -> None:
    assert torch_build.cuda_packages(_report(*names)) == cuda

"""Bench rows of the recorder: what it adds to training, the weights at the end compared first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache

import torch
from gatescope_kernels.bench import Contest
from torch import Tensor

from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.probes import PROBES, LogitLens
from gatescope.recorder import Recorder

EVERY = 50


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """Training with all probes every 50 steps against training alone; the ratio is 1 + overhead.

    A row costs much the same whatever the model, so the smallest model, whose 50 steps take a second, shows the most.
    """
    for sizes in ((8, 64, 64, 2),) if quick else ((8, 64, 64, 2), (16, 128, 128, 4)):
        yield _contest(*sizes, device)


def _contest(B: int, T: int, D: int, layers: int, device: str) -> Contest:
    gate = GateSpec(position="sdpa")
    attention = AttentionSpec(n_heads=4, n_kv_heads=4, head_dim=D // 4, gate=gate)
    config = LMConfig(vocab=256, d_model=D, n_layers=layers, attention=attention, mlp=MLPSpec("gelu", 4 * D))

    @cache
    def runs() -> tuple[Callable[[], dict[str, Tensor]], Callable[[], dict[str, Tensor]]]:
        # Kept until the process ends: rows go on where the last round stopped, as in a long run.
        folder = tempfile.TemporaryDirectory(prefix="gatescope-bench-")
        draw = torch.Generator().manual_seed(0)
        batches = torch.randint(256, (EVERY, B, T), generator=draw).to(device)
        model = TinyLM(config).to(device)
        begin = {name: value.clone() for name, value in model.state_dict().items()}
        probes = [
            LogitLens(model.readout) if kind is LogitLens else kind()
            for kind in PROBES.values()
            if kind.sites <= model.tap_sites
        ]
        recorder = Recorder(model, probes, folder.name, every=EVERY, tokens=batches[0])
        recorder.step(0)

        def train(record: bool) -> dict[str, Tensor]:
            # Naming the folder keeps it.
            begun = recorder.steps[-1] if folder.name else 0
            model.load_state_dict(begin)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
            for n, tokens in enumerate(batches, 1):
                optimizer.zero_grad()
                next_token_nll(model, tokens).mean().backward()
                optimizer.step()
                if record:
                    recorder.step(begun + n)
            return {name: value.clone() for name, value in model.state_dict().items()}

        return lambda: train(True), lambda: train(False)

    return Contest(
        op="recorder",
        task=f"{EVERY} training steps, all probes once",
        shape=f"B={B} T={T} D={D} L={layers}",
        dtype="float32",
        device=device,
        ours=lambda: runs()[0](),
        baselines={"training alone": lambda: runs()[1]()},
        tolerance=0.0,
    )


__all__ = ["contests"]

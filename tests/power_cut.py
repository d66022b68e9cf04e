"""A training run that ends as if the power had gone."""

from __future__ import annotations

import pytest
import torch

from videokd.engine.train import Trainer
from videokd.types import ClipBatch


def stop_after(patch: pytest.MonkeyPatch, num_steps: int) -> None:
    """After that many steps nothing more is done and nothing tidied up: "power cut" is raised."""
    steps = iter(range(num_steps))
    original = Trainer._step

    def step(self: Trainer, batch: ClipBatch, number: int) -> dict[str, torch.Tensor]:
        if next(steps, None) is None:
            raise RuntimeError("power cut")
        return original(self, batch, number)

    patch.setattr(Trainer, "_step", step)

"""How much of its weight a term has at one moment of the training. Nothing here imports torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from videokd.config import Config


class Schedule(Config):
    """How a term's weight changes; every moment is a share of the training, so that it stays where
    it is when the number of epochs changes (20 epochs of 240 are 0.083).

    ```
    1            ________
                /        \\
               /          \\___ final_fraction
    0 ________/               |________
              start           stop
              <-> warmup
    ```
    """

    start: float = Field(default=0.0, ge=0, lt=1)
    """Before it the term is off."""
    stop: float = Field(default=1.0, gt=0, le=1)
    """From it on the term is off again; 1: never."""
    warmup: float = Field(default=0.0, ge=0, le=1)
    """For so long, from `start` on, the weight rises linearly from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """From the end of the warm-up to `stop` the weight falls to `final_fraction` of itself."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Where the decay ends."""

    @model_validator(mode="after")
    def _moments_are_in_order(self) -> Schedule:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start:g} must be below stop {self.stop:g}")
        if self.start + self.warmup > self.stop + 1e-9:  # 0.1 + 0.2 is not beyond 0.3
            raise ValueError(
                f"start {self.start:g} plus warmup {self.warmup:g} lies beyond stop "
                f"{self.stop:g}, so the full weight would never be reached; shorten the warmup"
            )
        if self.decay != "none" and self.start + self.warmup > self.stop - 1e-9:
            raise ValueError(
                f"decay {self.decay} begins where the warmup of {self.warmup:g} ends, and that is "
                f"stop {self.stop:g}; shorten the warmup, or set decay to none"
            )
        if self.decay == "none" and self.final_fraction > 0:
            raise ValueError("final_fraction is where a decay ends; set decay to linear or cosine")
        return self

    def factor_at(self, progress: float) -> float:
        """The factor on the weight, in [0, 1]; exactly 0 outside `[start, stop)`.

        A pure function, so a run that is resumed goes on with the same weights.

        Args:
            progress: share of the training that is done, in [0, 1]. At 1, the end, a term that
                never stops is on.
        """
        if progress < self.start or (progress >= self.stop and self.stop < 1):
            return 0.0
        warm = self.start + self.warmup
        if progress < warm:
            return min(1.0, (progress - self.start) / self.warmup)
        if self.decay == "none":
            return 1.0
        through = (progress - warm) / (self.stop - warm)
        linear = self.decay == "linear"
        left = 1 - through if linear else 0.5 * (1 + math.cos(math.pi * through))
        return self.final_fraction + (1 - self.final_fraction) * left

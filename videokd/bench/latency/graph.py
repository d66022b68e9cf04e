"""A network captured once as a CUDA graph and replayed for each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from videokd.bench.complexity import logits_of

_NUM_WARMUP = 3
"""Runs on a side stream before the capture: libraries set themselves up in the first ones."""


class GraphRun:
    """Replays one recorded forward; a call copies its clips to the recorded place first.

    The copy is part of the call and so of its time: a batch has to come from somewhere. The logits
    are one tensor that the next call overwrites.
    """

    def __init__(
        self, run: Callable[[torch.Tensor], Any], example: torch.Tensor, *, cuda: Any = torch.cuda
    ) -> None:
        """`example` fixes shape, dtype, memory format and device; `cuda` is torch's, or a double.

        Raises:
            RuntimeError: what the network does cannot be captured.
        """
        self._clips = example.clone()
        current, side = cuda.current_stream(example.device), cuda.Stream(example.device)
        side.wait_stream(current)
        with cuda.stream(side):
            for _ in range(_NUM_WARMUP):
                run(self._clips)
        current.wait_stream(side)
        self._graph = cuda.CUDAGraph()
        with cuda.graph(self._graph):
            self._logits = logits_of(run(self._clips))

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits [N,K] of `clips`, which have the shape and dtype of the example."""
        if clips.shape != self._clips.shape or clips.dtype != self._clips.dtype:
            raise ValueError(
                f"recorded for {self._clips.dtype} {list(self._clips.shape)}, not "
                f"{clips.dtype} {list(clips.shape)}"
            )
        self._clips.copy_(clips)
        self._graph.replay()
        return self._logits

"""Rows of all processes side by side, with a gradient: what a loss over the whole batch needs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join the rows of all processes, [N, ...] to [M, ...], in the order of ranks.

    N may differ between processes and may be 0 on some; everything behind it may not. The result is
    the same on each. Its gradient flows back to the rows of the process that they came from, summed
    over the processes: where each backpropagates its own loss, rows get the gradient of the sum of
    all losses.

    A collective operation, in the backward pass too: every process calls it equally often, in the
    same order, on rows that require a gradient everywhere or nowhere. The sizes are read on the
    host, which waits for the device.

    Args:
        rows: on a device that the process group works on (gloo: CPU; NCCL: CUDA).
    """
    gathered: torch.Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        sizes = _sizes(rows)
        first = sum(sizes[: dist.get_rank()])
        ctx.mine = slice(first, first + len(rows))
        return torch.cat(
            [part[:size] for part, size in zip(_padded_parts(rows, sizes), sizes, strict=True)]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        # A copy: autograd may hand the same tensor to others.
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[ctx.mine]


def _sizes(rows: torch.Tensor) -> list[int]:
    """N of each process."""
    mine = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in torch.cat(sizes).tolist()]


def _padded_parts(rows: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Every process's rows, all as long as the longest: gloo joins equal shapes only."""
    longest = max(sizes)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    if longest == 0:
        return [padded for _ in sizes]
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return parts

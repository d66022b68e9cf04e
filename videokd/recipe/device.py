"""The device at hand: Fabric, threads, and how the CPU treats tiny numbers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import torch

from videokd.errors import ConfigError
from videokd.recipe.config import Device

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision


def flush_denormals() -> None:
    """Let the CPU treat numbers below 1e-38 as 0, before anything is computed.

    Trained networks have channels that all but died; on videos of another kind their activations
    are denormal numbers, and a forward pass takes up to twenty times as long. Threads inherit the
    mode from the one that starts them, so it is set before the first parallel operation.
    """
    torch.set_flush_denormal(True)


def use_threads(num_threads: int | None) -> None:
    """Compute on so many CPU threads; None: one a core, or what `OMP_NUM_THREADS` says.

    A thread more than there are idle cores costs more than it gives: the others wait for it,
    spinning. On two cores a small student trains twice as fast on one thread beside one decoding
    worker as on two.
    """
    if num_threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(given) if given.isdecimal() and int(given) else _num_cores()
    torch.set_num_threads(num_threads)


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bf16_autocast(device: Literal["cpu", "cuda"]) -> MixedPrecision:
    """bfloat16 where `torch.autocast` says so, and nowhere else.

    Fabric's own rounds all that a network is given before. Of the seconds of a frame 100 s into a
    video nothing smaller than half a second would be left to align taps by; and labels of mixed
    clips and what a teacher said would be rounded too.
    """
    from lightning_fabric.plugins import MixedPrecision

    class AutocastAlone(MixedPrecision):
        def convert_input(self, data: Any) -> Any:
            return data

    return AutocastAlone("bf16-mixed", device=device)


def use_device(device: Device = "auto", *, cpu_threads: int | None = None) -> torch.device:
    """The device at hand, with the CPU made ready: all that work in one process needs.

    Raises:
        ConfigError: a GPU is asked for, and there is none.
    """
    flush_denormals()
    use_threads(cpu_threads)
    if device == "cpu" or not torch.cuda.is_available():
        if device == "cuda":
            raise ConfigError("device cuda: PyTorch sees no CUDA device here; use cpu or auto")
        return torch.device("cpu")
    return torch.device("cuda", 0)


def create_fabric(
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    *,
    cpu_threads: int | None = None,
) -> Fabric:
    """Lightning Fabric on the device at hand; under torchrun, one process of its group."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    use_cuda = use_device(device, cpu_threads=cpu_threads).type == "cuda"
    if precision == "bf16" and not use_cuda:
        raise ConfigError(
            "precision bf16 on a CPU: PyTorch's gradients of 3D convolutions are wrong there; use "
            "auto (bf16 on a GPU, fp32 on a CPU) or fp32"
        )
    if precision == "auto":
        precision = "bf16" if use_cuda and torch.cuda.is_bf16_supported() else "fp32"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if use_cuda else "cpu",
        devices=local_size,
        num_nodes=world_size // local_size,
        # A step reads no buffer that its processes do not make alike (a term's memory of all
        # videos, say). Batch norm's statistics are shared when they are used or kept.
        strategy=DDPStrategy(broadcast_buffers=False) if world_size > 1 else "auto",
        precision=None if precision == "bf16" else "32-true",
        plugins=[bf16_autocast("cuda")] if precision == "bf16" else None,
    )
    fabric.launch()
    return fabric

"""What one latency is measured in, the product of several, and what cannot be."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from videokd.bench.parts import Dtype, Form, MemoryFormat, Mode
from videokd.errors import UserError

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_MOST_THREADS = 1024
"""OpenMP crashes the process where the system denies it a thread."""
_AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32 and bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetting:
    """One way to run a network."""

    batch: int = 1
    """Clips in a batch."""
    dtype: Dtype = "fp32"
    """Of weights and clips; tf32 keeps fp32 numbers and lets a GPU round the factors of products.
    """
    mode: Mode = "eager"
    form: Form = "trained"
    memory_format: MemoryFormat = "contiguous"
    """How 4-D and 5-D weights and the clips lie in memory; a deployed network lays its weights
    itself and is given contiguous clips or channels-last ones."""
    threads: int | None = None
    """CPU threads; None takes as many as there are cores. Without meaning on a GPU."""

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise UserError(f"batch {self.batch}, threads {self.threads}: each is at least 1")
        if self.threads is not None and self.threads > _MOST_THREADS:
            raise UserError(f"threads {self.threads}: at most {_MOST_THREADS}")

    def __str__(self) -> str:
        words = [self.dtype, self.mode, f"batch {self.batch}"]
        words += [f"threads {self.threads}"] if self.threads is not None else []
        words += [self.form] if self.form != "trained" else []
        words += [self.memory_format] if self.memory_format != "contiguous" else []
        return ", ".join(words)


def settings_of(
    *,
    batches: Sequence[int] = (1,),
    dtypes: Sequence[Dtype] = ("fp32",),
    modes: Sequence[Mode] = ("eager",),
    forms: Sequence[Form] = ("trained",),
    memory_formats: Sequence[MemoryFormat] = ("contiguous",),
    threads: Sequence[int | None] = (None,),
    device: torch.device | str = "cpu",
) -> list[BenchSetting]:
    """Every combination, each once; the batch changes last.

    On a CPU `threads` None becomes the number of cores, on a GPU every number becomes None.
    """
    counts = (
        [None] if torch.device(device).type == "cuda" else [t or usable_cores() for t in threads]
    )
    product = itertools.product(forms, modes, dtypes, memory_formats, counts, batches)
    return list(
        dict.fromkeys(
            BenchSetting(
                form=form, mode=mode, dtype=dtype, memory_format=layout, threads=count, batch=batch
            )
            for form, mode, dtype, layout, count, batch in product
        )
    )


def why_not(setting: BenchSetting, device: torch.device) -> str | None:
    """Why a setting cannot be on this device, in a line; None where it can."""
    if device.type == "cpu":
        if "graph" in setting.mode:
            return f"mode {setting.mode} is for a CUDA device, this is a CPU; use eager or compile"
        if setting.dtype == "tf32":
            return "dtype tf32 is for a CUDA device, this is a CPU; use fp32 or bf16"
        return None
    capability = torch.cuda.get_device_capability(device)
    if setting.dtype in ("tf32", "bf16") and capability < _AMPERE:
        other = "fp32" if setting.dtype == "tf32" else "fp16"
        return (
            f"dtype {setting.dtype} needs compute capability 8.0, this GPU has "
            f"{capability[0]}.{capability[1]}; use {other}"
        )
    return None


def usable_device(device: torch.device | str) -> torch.device:
    """The device, where this machine has it.

    Raises:
        UserError: for a name that torch does not know, a GPU that is not there, and other kinds.
    """
    try:
        where = torch.device(device)
    except RuntimeError:
        raise UserError(f"device {str(device)!r} is not known; allowed: cpu, cuda") from None
    if where.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(device)!r} cannot be timed; allowed: cpu, cuda")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use cpu"
        )
    return where


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_setting(setting: BenchSetting, device: torch.device) -> Iterator[None]:
    """Threads, TF32 and cuDNN's choice of algorithms as the setting wants them; restored after.

    Plain fp32 computes its products in fp32: torch alone would let cuDNN use TF32. cuDNN tries its
    algorithms for each shape once, as anyone would let it who serves clips of one shape.
    """
    threads = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    if device.type == "cpu":
        torch.set_num_threads(setting.threads or usable_cores())
    else:
        matmul.allow_tf32 = cudnn.allow_tf32 = setting.dtype == "tf32"
        cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before

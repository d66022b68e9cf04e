"""Options and output that several commands share."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from videokd.errors import ConfigError


class DeviceName(StrEnum):
    """Where to compute; auto takes a GPU when there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


PROTOCOL_NAMES = (
    "mmaction2_dense_10x3, mmaction2_dense_10x1, mmaction2_dense_5x3, mmaction2_dense_5x1, "
    "mmaction2_dense_4x3, mmaction2_dense_4x1, mmaction2_dense_1x3, mmaction2_x3d_10x3, "
    "mmaction2_tsn_25x10, mmaction2_tsm_1x10, mmaction2_tsm_1x3, mmaction2_tsm_1x1, "
    "mmaction2_tsm_twice_2x3, mmaction2_tsm_dense_10x10, mmaction2_tsm_dense_10x3, "
    "mmaction2_uniform_1x3, mmaction2_uniform_2x3, mmaction2_uniform_4x3, pyslowfast_10x3, "
    "pyslowfast_offset_5x1, pyslowfast_offset_5x3, pyslowfast_ssv2_1x3, pytorchvideo_10x3, "
    "pytorchvideo_main_10x3, torchvision_5x1, torchvision_12x1, tsm_uniform_1x1, tsm_twice_2x3, "
    "tsm_dense_10x3"
)
"""Those of `videokd.data.sampling.protocols`, said here so that help needs nothing but typer."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="Where to compute.")]
NumProcesses = Annotated[int, typer.Option(min=1, help="That work on the files.")]
TimeLimitSeconds = Annotated[float, typer.Option(min=1, help="For one file.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def positive_int(text: str, option: str) -> int:
    """A whole number above 0; `ConfigError` naming the option otherwise."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"{option} {text!r} is not a whole number above 0")
    return int(text)


def print_json(document: Any) -> None:
    """One document on stdout."""
    print(json.dumps(document, indent=1))

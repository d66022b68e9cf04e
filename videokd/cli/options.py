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


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="Where to compute.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def positive_int(text: str, option: str) -> int:
    """A whole number above 0; `ConfigError` naming the option otherwise."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"{option} {text!r} is not a whole number above 0")
    return int(text)


def print_json(document: Any) -> None:
    """One document on stdout."""
    print(json.dumps(document, indent=1))

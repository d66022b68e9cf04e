"""Checkpoints: plain data and tensors in one file, complete or absent, read without pickle.

`last.pt` holds all that a run needs to go on bit for bit; `best.pt` what using a network needs.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from videokd.errors import UserError
from videokd.files import written_beside

FORMAT = 1
"""Raised when the meaning of an entry changes; files of another format are refused."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data to `path`; a reader sees the old file or the new, never half.

    The bytes are on the disk before the rename, so that a power cut leaves a whole file too.
    """
    with written_beside(path) as part, part.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU.

    Raises:
        UserError: no such file, not a checkpoint of ours, or one that holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, or give the path of a .pt file")
    content = _load_plain(path)
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(
            f"{path}: weights, but not a videokd checkpoint; name it under init.weights to start "
            "a network from it"
        )
    if content["format"] != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {content['format']!r}, this version reads {FORMAT}; "
            "train again or use the version that wrote it"
        )
    return content


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a network, from a checkpoint of ours or from a bare (published) state dict.

    Published files nest the weights under `state_dict` or `model_state`; that is looked through.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such weights; give the path of a .pt, .pth or .safetensors file"
        )
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    content = _load_plain(path)
    for key in ("model", "state_dict", "model_state", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(torch.is_tensor(v) for v in content.values()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {name: value for name, value in content.items() if torch.is_tensor(value)}


def _load_plain(path: Path) -> Any:
    """Tensors and plain data; a file that holds anything else is refused, and nothing is run."""
    unreadable = RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except unreadable as error:
        # PyTorch's own text is a page about its defaults.
        is_more = "Weights only load failed" in str(error)
        reason = "it holds more than plain data" if is_more else type(error).__name__
        raise UserError(
            f"{path}: not a readable checkpoint of weights ({reason}); remove it to train again, "
            "or give another"
        ) from None


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error})") from None

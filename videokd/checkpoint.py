"""Checkpoints: plain data and tensors in one file, complete or absent, read without pickle.

`last.pt` holds all that a run needs to go on bit for bit; `best.pt` what using a network needs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videokd.errors import UserError
from videokd.files import written_beside

LAST = "last.pt"
"""The checkpoint of a run folder that its own training goes on from."""
BEST = "best.pt"
"""The checkpoint of a run folder that others use."""
FORMAT = 1
"""Raised when the meaning of an entry changes; files of another format are refused."""

_INERT_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how a pickle names the methods of a class
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)
"""What published files hold beside their weights: a training log, a best accuracy."""


_HOW_TO_REPLACE = "remove it to train again, or give another"
_HOW_TO_CONVERT = (
    "nothing in a file is run here; if you trust its source, take its weights out where it was "
    'made: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE)'
)


class WeightsFile(NamedTuple):
    """What a file of weights says."""

    tensors: dict[str, torch.Tensor]
    class_names: tuple[str, ...] | None
    """Of the classifier's outputs, in order; None where the file does not tell."""


class _Content(dict[str, Any]):
    """The entries of a checkpoint; one that is asked for and not there is a user's to mend."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._path}: a checkpoint without {key!r}; {_HOW_TO_REPLACE}")


class _Inert:
    """Stands for whatever a file wants to make by one of `_INERT_NAMES`, and does nothing.

    PyTorch looks names up in a table instead of importing them, so nothing of the file's is run.
    """

    def __new__(cls, *_args: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


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
    return _Content(content, path)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a network, as `load_weights_file` reads them."""
    return load_weights_file(path).tensors


def load_weights_file(path: Path) -> WeightsFile:
    """The weights of a network, from a checkpoint of ours or from a bare (published) state dict.

    Published files nest the weights under `state_dict` or `model_state`; that is looked through.

    Raises:
        UserError: no such file, one that holds no state dict, or one that is more than tensors and
            plain data.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such weights; give the path of a .pt, .pth or .safetensors file"
        )
    if path.suffix == ".safetensors":
        return WeightsFile(_load_safetensors(path), None)
    # The classes of mmengine's log and of numpy's scalars lie beside the weights, never in them.
    with torch.serialization.safe_globals([(_Inert, name) for name in _INERT_NAMES]):
        content = _load_plain(path, advice=_HOW_TO_CONVERT)
    class_names = content.get("class_names") if isinstance(content, dict) else None
    for key in ("model", "state_dict", "model_state", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(torch.is_tensor(v) for v in content.values()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors)")
    tensors = {name: value for name, value in content.items() if torch.is_tensor(value)}
    for name, value in content.items():
        if isinstance(value, _Inert):
            raise UserError(f"{path}: {name!r} is a numpy array or another object, not a tensor")
    return WeightsFile(tensors, tuple(class_names) if isinstance(class_names, list) else None)


def _load_plain(path: Path, *, advice: str = _HOW_TO_REPLACE) -> Any:
    """Tensors and plain data; a file that holds anything else is refused, and nothing is run."""
    try:
        with warnings.catch_warnings():
            # A bare pickle of another protocol: what cannot be read is an error below.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # PyTorch's reader meets damage with whatever it stumbles over
        # PyTorch's own text is a page about its defaults.
        if "Weights only load failed" not in str(error):
            reason, advice = type(error).__name__, _HOW_TO_REPLACE
        elif found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it holds {found[1]}, which is more than tensors and plain data"
        else:
            reason = "it holds more than tensors and plain data"
        raise UserError(
            f"{path}: not a readable checkpoint of weights ({reason}); {advice}"
        ) from None


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error})") from None

"""What a network said of each video: the rows of `predictions.csv`, from which runs are compared.

Columns: `path` (as in the index), `label` (the class of the video), `predicted` (the class ranked
first), `correct_top1` and `correct_top5` (1 or 0), `group` (empty where the index has none).

Beside them, in `probabilities.safetensors`, the probabilities behind each row, with the names of
their columns and the digest of the rows that they belong to.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videokd.errors import UserError
from videokd.files import csv_text, written_beside
from videokd.metrics.accuracy import rank_classes
from videokd.types import ClassNames

if TYPE_CHECKING:
    import torch

COLUMNS = ("path", "label", "predicted", "correct_top1", "correct_top5", "group")
_TENSOR = "probabilities"
_ABOUT = "videokd"


@dataclass(frozen=True)
class Predictions:
    """M videos in the order of the index, each once."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    correct_top1: np.ndarray
    """bool [M]."""
    correct_top5: np.ndarray
    """bool [M]."""
    groups: tuple[str, ...]
    """"" where the index has no group."""
    probabilities: np.ndarray | None = None
    """float32 [M, K]; None where only the CSV was read."""
    classes: tuple[str, ...] = ()
    """The K names of the columns of `probabilities`."""

    @classmethod
    def from_scores(
        cls,
        probabilities: torch.Tensor | np.ndarray,
        targets: torch.Tensor | np.ndarray,
        classes: ClassNames,
        *,
        paths: Sequence[str],
        groups: Sequence[str],
    ) -> Predictions:
        """From probabilities [M, K] and classes [M]; equal ones rank as in `accuracy_report`."""
        import torch

        ranked, truth = rank_classes(probabilities, targets, len(classes))
        hits = (ranked == truth[:, None]).numpy()
        return cls(
            paths=tuple(paths),
            labels=tuple(classes[index] for index in truth.tolist()),
            predicted=tuple(classes[index] for index in ranked[:, 0].tolist()),
            correct_top1=hits[:, 0],
            correct_top5=np.asarray(hits[:, :5].any(axis=1)),
            groups=tuple(groups),
            probabilities=torch.as_tensor(probabilities).detach().cpu().float().numpy(),
            classes=tuple(classes),
        )

    def to_csv(self) -> str:
        """One row a video."""
        columns = (
            self.paths,
            self.labels,
            self.predicted,
            self.correct_top1.astype(int).tolist(),
            self.correct_top5.astype(int).tolist(),
            self.groups,
        )
        return csv_text(COLUMNS, list(zip(*columns, strict=True)))

    @property
    def digest(self) -> str:
        """SHA-256 of the CSV, 16 hex digits: `file_digest` of the file that holds it."""
        return hashlib.sha256(self.to_csv().encode()).hexdigest()[:16]


def write_probabilities(predictions: Predictions, path: Path) -> None:
    """The probabilities of `predictions` as safetensors, whole or absent.

    Raises:
        ValueError: they have none.
    """
    from safetensors.numpy import save_file

    if predictions.probabilities is None:
        raise ValueError("these predictions have no probabilities to write")
    # One entry alone: the order of several would differ from write to write.
    about = {"class_names": predictions.classes, "predictions_digest": predictions.digest}
    values = np.ascontiguousarray(predictions.probabilities, dtype=np.float32)
    with written_beside(path) as part:
        save_file({_TENSOR: values}, part, metadata={_ABOUT: json.dumps(about)})


def read_predictions(path: Path, *, probabilities: Path | None = None) -> Predictions:
    """The predictions in a `predictions.csv`, with the probabilities behind them if asked for.

    Args:
        path: the CSV.
        probabilities: the `probabilities.safetensors` that was written with it.

    Raises:
        UserError: a file that cannot be read or is another one, or probabilities of other rows.
    """
    predictions = _read_csv(path)
    if probabilities is None:
        return predictions
    values, about = _read_probabilities(probabilities)
    shape = (len(predictions.paths), len(about["class_names"]))
    if about["predictions_digest"] != predictions.digest or values.shape != shape:
        raise UserError(
            f"{probabilities}: is not of the {path.name} beside it; run `videokd eval` again"
        )
    return replace(predictions, probabilities=values, classes=tuple(about["class_names"]))


def _read_probabilities(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """float [M, K], and what stands in the file's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            return file.get_tensor(_TENSOR), {
                "class_names": [str(name) for name in about["class_names"]],
                "predictions_digest": str(about["predictions_digest"]),
            }
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as probabilities of ours: {reason}; run `videokd eval` again"
        ) from None


def _read_csv(path: Path) -> Predictions:
    try:
        text = path.read_bytes().decode("utf-8")  # as bytes: a path may hold a carriage return
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as predictions: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(
            f"{path}: not predictions of ours, whose columns are {', '.join(COLUMNS)}; run "
            "`videokd eval` again"
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(COLUMNS) or not {row[3], row[4]} <= {"0", "1"}:
            raise UserError(f"{path}:{number}: not a row of predictions; run `videokd eval` again")
    columns = list(zip(*rows[1:], strict=True)) or [()] * len(COLUMNS)
    return Predictions(
        paths=columns[0],
        labels=columns[1],
        predicted=columns[2],
        correct_top1=np.array(columns[3], dtype=str) == "1",
        correct_top5=np.array(columns[4], dtype=str) == "1",
        groups=columns[5],
    )

"""What a network said of each video: the rows of `predictions.csv`, from which runs are compared.

Columns: `path` (as in the index), `label` (the class of the video), `predicted` (the class ranked
first), `correct_top1` and `correct_top5` (1 or 0), `group` (empty where the index has none).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videokd.errors import UserError
from videokd.files import csv_text
from videokd.metrics.accuracy import rank_classes
from videokd.types import ClassNames

if TYPE_CHECKING:
    import torch

COLUMNS = ("path", "label", "predicted", "correct_top1", "correct_top5", "group")


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
        ranked, truth = rank_classes(probabilities, targets, len(classes))
        hits = (ranked == truth[:, None]).numpy()
        return cls(
            paths=tuple(paths),
            labels=tuple(classes[index] for index in truth.tolist()),
            predicted=tuple(classes[index] for index in ranked[:, 0].tolist()),
            correct_top1=hits[:, 0],
            correct_top5=np.asarray(hits[:, :5].any(axis=1)),
            groups=tuple(groups),
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


def read_predictions(path: Path) -> Predictions:
    """The predictions in a `predictions.csv`.

    Raises:
        UserError: a file that cannot be read or is another one.
    """
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

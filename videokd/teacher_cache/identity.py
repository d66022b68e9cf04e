"""What a cache is made of: all that decides what is drawn and what the teacher says to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videokd.data.index import classes_path
from videokd.data.loading import DataConfig
from videokd.files import file_digest
from videokd.types import InputSpec


def made_of(
    *,
    seed: int,
    data: DataConfig,
    batch_size: int,
    student: InputSpec,
    teacher: Mapping[str, Any],
    teacher_files: Mapping[str, Path],
) -> dict[str, Any]:
    """Plain data; equal where a cache serves, and files are told by digests of their bytes.

    The student's network is not among it, nor its objective and optimiser: one cache serves many
    students of one input. The number of processes and workers is not either.

    Args:
        seed: of the run.
        data: videos, augmentation, repeats.
        batch_size: clips of a step over all processes: which videos are mixed, and which are too
            few for a last batch.
        student: its frames are drawn first, and its crop is everybody's.
        teacher: the teacher's part of the recipe, without its paths.
        teacher_files: name -> checkpoint.
    """
    return {
        "index": file_digest(data.index),
        "classes": file_digest(classes_path(data.index)),  # a logit's place is its class
        "teacher_files": {name: file_digest(path) for name, path in teacher_files.items()},
        "teacher": dict(teacher),
        "seed": seed,
        "train.batch_size": batch_size,
        "data": data.model_dump(
            mode="json", include={"train_split", "unlabelled_split", "augment", "repeats"}
        ),
        "model.input": student.model_dump(
            mode="json", include={"sampling", "short_side_px", "crop_px"}
        ),
    }

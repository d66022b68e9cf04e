"""Finished runs as JSON lines: the files that are committed, and that every table is made from.

A line is one run; its predictions are in it, class by class, so that paired statistics can be
computed again from these files alone. Nothing here imports torch.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videokd.errors import UserError
from videokd.files import read_text, write_text

Stage = Literal["tune", "run"]

TUNING_FILE = "tuning.jsonl"
VIDEOS_FILE = "videos.jsonl"


@dataclass(frozen=True, order=True)
class Key:
    """Which run."""

    study: str
    stage: Stage
    row: str
    seed: int
    fold: str | None = None
    """None in a study without folds; `1-3` is a run that leaves out both."""
    trial: int | None = None
    """Which of the row's trials; None where it is not one."""

    def __str__(self) -> str:
        parts = [f"{self.study}/{self.row}", f"seed {self.seed}"]
        parts += [] if self.fold is None else [f"fold {self.fold}"]
        parts += [] if self.trial is None else [f"trial {self.trial}"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Score:
    """What a run says of one split."""

    num_videos: int
    top1_pct: float
    nll: float
    """Mean negative log-likelihood of the true class, nats."""
    ece_pct: float
    """Expected calibration error, points."""
    predicted: str
    """The class of each video, `pack`ed."""

    @property
    def classes(self) -> np.ndarray:
        """int64 [M], the predicted class of each video in the order of the index."""
        return unpack(self.predicted)


@dataclass(frozen=True)
class Record:
    """One finished run."""

    key: Key
    digest: str
    """Of its settings, and of the runs that it reads."""
    index_digest: str
    scores: dict[str, Score]
    """Split -> what it says of it; a run of the stage tune has none of a test split."""
    failed: str | None = None
    """Why there are no scores: the loss was no number."""
    epochs: int = 0
    train_seconds: float = 0.0
    """Training and validation, over all starts."""
    wall_seconds: float = 0.0
    """The whole run as it was waited for, evaluations and start included."""
    gmacs_per_video: float | None = None
    params_m: float | None = None
    probe: dict[str, float] | None = None
    """Top-1 with the frames in order, shuffled, reversed and frozen."""
    teacher_digest: str | None = None
    """SHA-256 of the teacher's weights."""
    jobs: int = 1
    """Runs side by side while it ran."""
    environment: dict[str, Any] = field(default_factory=dict)
    finished: str = ""
    """UTC."""

    def to_line(self) -> str:
        """One line of JSON."""
        plain = asdict(self)
        return json.dumps({**plain.pop("key"), **plain}, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str, *, where: str) -> Record:
        """What `to_line` wrote.

        Raises:
            UserError: another thing.
        """
        try:
            plain = json.loads(line)
            key = Key(**{one.name: plain.pop(one.name) for one in fields(Key)})
            scores = {split: Score(**score) for split, score in plain.pop("scores").items()}
            return cls(key=key, scores=scores, **plain)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{where}: not a result of ours; remove the line to run it again"
            ) from None


@dataclass(frozen=True)
class Videos:
    """What is true of the videos of a split, once for all runs."""

    study: str
    fold: str | None
    split: str
    index_digest: str
    labels: str
    """The true class of each video, `pack`ed."""
    groups: tuple[str, ...]
    """Of each video; all "" where the index has none."""

    @property
    def true_classes(self) -> np.ndarray:
        """int64 [M], in the order of the index."""
        return unpack(self.labels)

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


class Results:
    """The lines of all studies. One process writes them; every write leaves whole files."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; a last line that a kill cut off is as if it had not been begun."""
        self.folder = folder
        self.records: dict[Key, Record] = {}
        for path in sorted(folder.glob("*.jsonl")):
            if path.name != VIDEOS_FILE:
                for where, line in _lines(path):
                    record = Record.from_line(line, where=where)
                    self.records[record.key] = record
        self.videos: dict[tuple[str, str | None, str], Videos] = {}
        for where, line in _lines(folder / VIDEOS_FILE):
            one = _videos(line, where)
            self.videos[one.study, one.fold, one.split] = one

    def add(self, record: Record, videos: Iterable[Videos]) -> None:
        """Keep a run; one of the same key, made by other settings, is replaced.

        Raises:
            UserError: its videos are others than those of the runs before.
        """
        for one in videos:
            self._add_videos(one)
        self.records[record.key] = record
        name = TUNING_FILE if record.key.stage == "tune" else f"{record.key.study}.jsonl"
        same_file = [
            kept
            for key, kept in self.records.items()
            if key.stage == record.key.stage
            and (key.stage == "tune" or key.study == record.key.study)
        ]
        _write_lines(self.folder / name, [kept.to_line() for kept in same_file])

    def _add_videos(self, one: Videos) -> None:
        known = self.videos.get((one.study, one.fold, one.split))
        if known is not None and (known.labels, known.groups) != (one.labels, one.groups):
            raise UserError(
                f"{self.folder / VIDEOS_FILE}: {one.study}, split {one.split} had other videos "
                "when earlier runs were made; bring the old index back, or begin with an empty "
                "folder of results"
            )
        if known is None:
            self.videos[one.study, one.fold, one.split] = one
            lines = [kept.to_line() for kept in self.videos.values()]
            _write_lines(self.folder / VIDEOS_FILE, lines)


def pack(classes: Sequence[int] | np.ndarray) -> str:
    """Class indices as text: 16 bits each, compressed."""
    values = np.asarray(classes, dtype="<u2")
    return base64.b64encode(zlib.compress(values.tobytes(), level=9)).decode()


def unpack(text: str) -> np.ndarray:
    """int64 [M], what `pack` took."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2").astype(np.int64)


def _lines(path: Path) -> list[tuple[str, str]]:
    """(where, line) of a file's lines; an unfinished last one is left out."""
    if not path.is_file():
        return []
    whole = read_text(path).split("\n")[:-1]
    return [(f"{path}:{number}", line) for number, line in enumerate(whole, start=1) if line]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def _videos(line: str, where: str) -> Videos:
    try:
        plain = json.loads(line)
        return Videos(**{**plain, "groups": tuple(plain["groups"])})
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{where}: not a list of videos of ours") from None

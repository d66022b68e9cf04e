"""What the finished runs of a study answered to its test videos, row by row and seed by seed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from videokd.experiments.ablation.ladder import SyntheticData
from videokd.experiments.ablation.plan import Plan
from videokd.experiments.ablation.records import Key, Record, Results, Videos
from videokd.experiments.ablation.tuning import finished

Fold = str | None
"""None where a study has none."""


class Answers:
    """The runs of a study that the ladder stands behind; folds stand one after the other."""

    def __init__(self, plan: Plan, results: Results, study: str) -> None:
        self._plan = plan
        self._results = results
        self._name = study
        self._study = plan.study(study)
        self.folds: tuple[Fold, ...] = self._study.folds or (None,)
        self.labels = self._labels()
        """int64 [M]; nothing where no run is finished."""
        self.groups = self._people() if self._study.folds else self._scenes()
        """[M] names of what videos share, a person or a scene; None where each is by itself."""
        self.correct = {row: self._correct(row) for row in self._study.rows}
        """Row -> seed -> bool [M]: the seeds whose folds are all finished."""

    def records(self, row: str) -> list[Record]:
        """Every finished run, those whose loss was no number among them."""
        keys = self._plan.run_keys(self._name, row)
        found = [finished(self._plan, self._results, key) for key in keys]
        return [record for record in found if record is not None]

    def predicted(self, row: str) -> dict[int, np.ndarray]:
        """Seed -> int64 [M], of the seeds whose folds are all finished; nothing of a row that was
        tested on other videos."""
        found: dict[int, np.ndarray] = {}
        one = self._study.rows[row]
        if one.kind == "start" or (self._study.folds and not one.folds):
            return found
        for seed in self._study.seeds_of(row):
            records = [self._record(row, seed, fold) for fold in self.folds]
            scores = [
                None if record is None else record.scores.get(test_split(fold))
                for fold, record in zip(self.folds, records, strict=True)
            ]
            whole = [score.classes for score in scores if score is not None]
            if len(whole) == len(scores):
                found[seed] = np.concatenate(whole)
        return found

    def correct_of(self, row_of: dict[Fold, str]) -> dict[int, np.ndarray]:
        """Seed -> bool [M] of fold -> row: each row on its own fold's test videos."""
        parts = [self._part(row, fold) for fold, row in row_of.items()]
        seeds = set.intersection(*(set(part) for part in parts))
        return {seed: np.concatenate([part[seed] for part in parts]) for seed in seeds}

    def _record(self, row: str, seed: int, fold: Fold) -> Record | None:
        is_over_folds = fold is not None and self._study.rows[row].folds
        key = Key(self._name, "run", row, seed, fold if is_over_folds else None)
        return finished(self._plan, self._results, key)

    def _videos(self, fold: Fold) -> Videos | None:
        return self._results.videos.get((self._name, fold, test_split(fold)))

    def _labels(self) -> np.ndarray:
        found = [self._videos(fold) for fold in self.folds]
        parts = [one.true_classes for one in found if one is not None]
        return np.concatenate(parts) if len(parts) == len(found) else np.zeros(0, dtype=np.int64)

    def _people(self) -> tuple[str, ...]:
        found = [self._videos(fold) for fold in self.folds]
        return tuple(group for one in found if one is not None for group in one.groups)

    def _scenes(self) -> tuple[str, ...] | None:
        data = self._study.data
        if not isinstance(data, SyntheticData) or not data.shares_scenes:
            return None
        seen: Counter[int] = Counter()
        scenes = []
        for label in self.labels.tolist():
            scenes.append(f"scene {seen[label]}")
            seen[label] += 1
        return tuple(scenes)

    def _correct(self, row: str) -> dict[int, np.ndarray]:
        return {seed: classes == self.labels for seed, classes in self.predicted(row).items()}

    def _part(self, row: str, fold: Fold) -> dict[int, np.ndarray]:
        """Seed -> the videos of one fold; how many those are is known once one seed is finished."""
        if not self.correct[row]:
            return {}
        sizes = [self._fold_size(one) for one in self.folds]
        position = self.folds.index(fold)
        start = sum(sizes[:position])
        stop = start + sizes[position]
        return {seed: correct[start:stop] for seed, correct in self.correct[row].items()}

    def _fold_size(self, fold: Fold) -> int:
        return len(self._results.videos[self._name, fold, test_split(fold)].true_classes)


def test_split(fold: Fold) -> str:
    """The split that a fold's test videos stand in."""
    return "test" if fold is None else f"test{fold}"

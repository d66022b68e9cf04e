"""From the ladder to runs: their settings and folders, what they read, what they are scored on.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videokd.config import read_yaml
from videokd.errors import ConfigError
from videokd.experiments.ablation.choices import Choices
from videokd.experiments.ablation.ladder import Kind, Ladder, Row, Study
from videokd.experiments.ablation.overrides import (
    Overrides,
    digest_of,
    settings_digest,
    value_at,
    with_overrides,
)
from videokd.experiments.ablation.records import Key
from videokd.experiments.folds import with_fold

CACHE = "cache"
"""In the run folder of a cache: the cache itself."""


class NotChosen(Exception):
    """A run whose settings are still to be chosen."""


@dataclass(frozen=True)
class Places:
    """Where things lie."""

    ladder: Path
    chosen: Path
    """What the stage tune writes and the stage run reads."""
    results: Path
    """Folder of the JSON lines."""
    runs: Path
    """Folder of run folders."""
    report: Path
    """The page whose tables are written."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Index that a recipe names -> the one that is read instead; of the quick form."""


@dataclass(frozen=True)
class Job:
    """One run, with all that is needed to do it."""

    key: Key
    settings: Mapping[str, Any]
    """A whole recipe as plain data."""
    run_dir: Path
    splits: tuple[str, ...]
    """What it is scored on."""
    digest: str
    needs: tuple[Key, ...]
    """Runs whose folders it reads."""
    probe: bool
    insist: bool
    """Its teacher is meant to be at chance."""
    kind: Kind
    """Of its row."""

    @property
    def is_cache(self) -> bool:
        """The teacher's outputs are written, and nothing is trained."""
        return self.kind == "cache"

    @property
    def is_compared(self) -> bool:
        """Its videos are those that the study's rows are compared on; first weights may come from
        others."""
        return self.kind not in ("start", "cache")

    @property
    def epochs(self) -> int:
        """Passes over the training videos."""
        return int(value_at(self.settings, "train.epochs") or 0)


class Plan:
    """All runs of a ladder under what is chosen so far."""

    def __init__(self, ladder: Ladder, places: Places, choices: Choices) -> None:
        self.ladder = ladder
        self.places = places
        self.choices = choices
        self._jobs: dict[Key, Job] = {}
        self._recipes: dict[Path, dict[str, Any]] = {}

    def study(self, name: str) -> Study:
        """A study by its name."""
        return self.ladder.studies[name]

    def row(self, key: Key) -> Row:
        """The row that a run is of."""
        return self.study(key.study).rows[key.row]

    # What there is to do.

    def run_keys(self, study: str, row: str) -> list[Key]:
        """The runs of a row that are reported."""
        one = self.study(study)
        folds = one.folds if one.rows[row].folds else ()
        return [
            Key(study, "run", row, seed, fold)
            for seed in one.seeds_of(row)
            if seed not in one.tuning.seeds
            for fold in (folds or (None,))
        ]

    def tune_keys(self, study: str, row: str) -> list[Key]:
        """The runs that a row's settings are chosen by, and those that only score a choice.

        Controls that take another row's choice are scored on validation people too: the best
        control is chosen by that, and a study with folds has no other validation.
        """
        one = self.study(study)
        trials: list[int | None] = list(range(len(one.trials(row))))
        folds = one.inner_folds
        if not trials and folds and one.rows[row].kind == "control":
            trials, folds = [None], one.ordered_inner_folds
        return [
            Key(study, "tune", row, seed, fold, trial)
            for trial in trials
            for seed in one.tuning.seeds
            for fold in (folds or (None,))
        ]

    def with_needs(self, keys: list[Key]) -> Iterator[Key]:
        """The runs, each after those that it reads; where something is not chosen, none."""
        seen: set[Key] = set()
        for key in keys:
            try:
                chain = list(self._chain(key))
            except NotChosen:
                continue
            for one in chain:
                if one not in seen:
                    seen.add(one)
                    yield one

    def _chain(self, key: Key) -> Iterator[Key]:
        for needed in self.job(key).needs:
            yield from self._chain(needed)
        yield key

    # One run.

    def job(self, key: Key) -> Job:
        """All of one run.

        Raises:
            NotChosen: it waits for a choice.
            ConfigError: a recipe that cannot be read, or does not say what its study needs.
        """
        if key not in self._jobs:
            self._jobs[key] = self._made(key)
        return self._jobs[key]

    def _made(self, key: Key) -> Job:
        row = self.row(key)
        run_dir = self.run_dir(key)
        needs = {path: self._needed(key, name) for path, name in row.uses.items()}
        settings = with_overrides(self._recipe(row, key), self._layers(key))
        if key.fold is not None:
            settings = with_fold(settings, key.fold)
        used: Overrides = {
            "seed": key.seed,
            "output_dir": str(run_dir),
            **{path: str(self.product_dir(needed)) for path, needed in needs.items()},
        }
        settings = with_overrides(settings, [used])
        digests = {path: self.job(needed).digest for path, needed in needs.items()}
        digests |= self._videos(str(value_at(settings, "data.index")))
        return Job(
            key=key,
            settings=settings,
            run_dir=run_dir,
            splits=self._splits(key, settings),
            digest=settings_digest(settings, digests),
            needs=tuple(needs.values()),
            probe=row.probe and key.stage == "run",
            insist=row.kind == "placebo" or bool(self.places.moved),
            kind=row.kind,
        )

    def run_dir(self, key: Key) -> Path:
        """What others read is trained once for both stages; the rest of a stage stands apart."""
        row = self.row(key)
        parts = [key.study]
        parts += [] if row.is_prerequisite else [key.stage]
        parts += [key.row]
        parts += [] if key.trial is None else [f"trial{key.trial}"]
        parts += [] if key.fold is None else [f"fold{key.fold}"]
        return self.places.runs.joinpath(*parts, f"seed{key.seed}")

    def product_dir(self, key: Key) -> Path:
        """What another run's setting names to read it."""
        run_dir = self.run_dir(key)
        return run_dir / CACHE if self.row(key).kind == "cache" else run_dir

    def read_by(self, study: str, row: str) -> set[str]:
        """The rows that a row reads, and those that they read."""
        found: set[str] = set()
        for name in self.study(study).rows[row].uses.values():
            found |= {name, *self.read_by(study, name)}
        return found

    def index_of(self, study: str, row: str) -> str:
        """The index that a row's recipe names, or what stands for it.

        Raises:
            ConfigError: a row over folds that names another index than its study's.
        """
        one = self.study(study)
        path, recipe = self._read(one.rows[row])
        named = str(value_at(recipe, "data.index"))
        found = self.places.moved.get(named, named)
        if one.folds and one.rows[row].folds and found != str(one.data.index):
            raise ConfigError(f"{path}: data.index is {named}, not the study's {one.data.index}")
        return found

    def _read(self, row: Row) -> tuple[Path, dict[str, Any]]:
        path = self.places.ladder.parent / row.recipe
        if path not in self._recipes:
            self._recipes[path] = read_yaml(path)
        return path, self._recipes[path]

    def _videos(self, index: str) -> dict[str, str]:
        """What stands for an index in digests: which videos they are, not where they lie."""
        for study in self.ladder.studies.values():
            for data in study.all_data:
                if str(data.index) == index:
                    return {"data.index": digest_of(data.identity)}
        return {}

    def _recipe(self, row: Row, key: Key) -> dict[str, Any]:
        _, recipe = self._read(row)
        return with_overrides(recipe, [{"data.index": self.index_of(key.study, key.row)}])

    def _layers(self, key: Key) -> list[Overrides]:
        """From the bottom up; see `Row`."""
        study, row = self.study(key.study), self.row(key)
        layers: list[Overrides] = [row.below]
        if row.choice_of is not None:
            layers.append(self._choice(key, row.choice_of))
        layers.append(row.over)
        if row.total_time_of is not None:
            layers.append(self._choice(key, key.row))
        trials = study.trials(key.row)
        if trials:
            own = self._choice(key, key.row) if key.trial is None else trials[key.trial]
            layers.append(own)
        return layers

    def _choice(self, key: Key, row: str) -> Overrides:
        """What was chosen for a row and the fold of a run, or for a row that it takes it from."""
        one = self.study(key.study).rows[row]
        if not one.tune and one.total_time_of is None:
            return self._choice(key, one.choice_of) if one.choice_of is not None else {}
        fold = None if key.fold is None else key.fold.split("-")[0]
        found = self.choices.find(key.study, row, fold)
        if found is None:
            raise NotChosen(f"{row} is not tuned yet")
        return found.over

    def _needed(self, key: Key, name: str) -> Key:
        """The run of another row whose folder this one reads."""
        study = self.study(key.study)
        other = study.rows[name]
        fold = None
        if key.fold is not None and other.folds:  # networks that others read leave both out at once
            fold = "-".join(sorted(key.fold.split("-"), key=study.folds.index))
        seeds = study.seeds_of(name)
        seed = key.seed if key.seed in seeds else seeds[0]
        if other.is_prerequisite or key.stage == "run":
            return Key(key.study, key.stage, name, seed, fold)
        if key.fold is not None:
            raise ConfigError(
                f"{key}: reads {name}, which is tuned for each fold; over folds only rows that "
                "are starts or teachers can be read"
            )
        chosen = self.choices.find(key.study, name, None) if other.tune else None
        if other.tune and chosen is None:
            raise NotChosen(f"{name} is not tuned yet")
        trial = chosen.trial if chosen is not None else None
        return Key(key.study, "tune", name, study.tuning.seeds[0], None, trial)

    def _splits(self, key: Key, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Validation alone in the stage tune; where there are folds, the two that are left out. A
        cache has no accuracy."""
        if self.row(key).kind == "cache":
            return ()
        if key.fold is not None and key.stage == "tune":
            held = [validation_split(fold) for fold in key.fold.split("-")]
            is_one_way = key.trial is None and not self.row(key).is_prerequisite
            return tuple(held[1:] if is_one_way else held)
        validation = value_at(settings, "data.val_split")
        test = value_at(settings, "data.test_split") or "test"
        if key.stage == "tune":
            return (str(validation or "val"),)
        return (str(test),) if key.fold is not None else (str(validation or "val"), str(test))


def validation_split(fold: str) -> str:
    """The split that holds a fold's people while settings are chosen for another fold."""
    return f"held{fold}"

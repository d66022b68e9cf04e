"""The ladder as data: which runs there are, what each is compared with, and what is tuned.

`configs/ablation/ladder.yaml` is read here. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

import videokd
from videokd.config import Config, did_you_mean, load_config
from videokd.data.synthetic import PRESETS, SyntheticConfig, preset_config
from videokd.errors import ConfigError

Kind = Literal["start", "teacher", "cache", "control", "placebo", "distilled"]
"""`start`, `teacher` and `cache` are what other rows read; the others are compared."""

PREREQUISITES: tuple[Kind, ...] = ("start", "teacher", "cache")

Settings = dict[str, JsonValue]
"""Dotted path -> value, laid over a recipe."""
Axis = tuple[Settings, ...]
"""Settings that a trial takes one of."""

_INHERITED = ("recipe", "kind", "group", "over", "uses", "seeds")
"""What a row takes from the one that it is `like`."""


class SyntheticData(Config):
    """The embedded videos, half of the training ones marked as labelled."""

    kind: Literal["synthetic"] = "synthetic"
    preset: str = "ablation"
    """A name in `videokd data synth --preset`."""
    seed: int = Field(0, ge=0)
    """Another seed has other videos, all of them."""
    settings: tuple[str, ...] = ()
    """`key=value`, laid over the preset."""
    folder: Path
    """Where they are rendered."""
    index: Path
    """The index that recipes name: splits `train`, `labelled`, `unlabelled`, `val`, `test`."""

    @field_validator("preset")
    @classmethod
    def _is_known(cls, value: str) -> str:
        _check_known(value, PRESETS, "preset")
        return value

    @property
    def identity(self) -> JsonValue:
        """All that decides what the videos are."""
        return self._config.model_dump(mode="json")

    @property
    def shares_scenes(self) -> bool:
        """Whether the n-th video of every class shows the n-th scene: they are no separate ones."""
        return self._config.scenes_in_all_classes

    @property
    def _config(self) -> SyntheticConfig:
        return preset_config(self.preset, seed=self.seed, settings=self.settings)


class PeopleData(Config):
    """An index whose groups are people, dealt to folds: each person is tested once."""

    kind: Literal["people"] = "people"
    source: Path
    """An index with a group for every video (`videokd data index --group-pattern`)."""
    index: Path
    """The index that recipes name, with the splits of all folds."""
    folds: dict[str, tuple[str, ...]]
    """Fold -> the groups that are tested in it."""
    labelled: tuple[str, ...] | None = None
    """The groups whose labels training and choices see; by default all. The others are in the
    splits `unlabelled{fold}`, and everybody is tested."""

    @model_validator(mode="after")
    def _folds_fit(self) -> PeopleData:
        groups = [group for members in self.folds.values() for group in members]
        if len(self.folds) < 3:
            raise ValueError(
                f"folds: {len(self.folds)} are too few; settings are chosen on one fold's people "
                "with a second one's left out, and a third one's must be there to train on"
            )
        if len(set(groups)) < len(groups):
            raise ValueError("folds: a group is tested in two folds; each is tested once")
        if any("-" in fold or not fold for fold in self.folds):
            raise ValueError("folds: a fold's name has no '-' in it, and is not empty")
        return self

    @model_validator(mode="after")
    def _labelled_people_are_everywhere(self) -> PeopleData:
        for group in self.labelled or ():
            if not any(group in members for members in self.folds.values()):
                raise ValueError(f"labelled: {group!r} is in no fold")
        for fold, members in self.folds.items():
            if not any(self.is_labelled(group) for group in members):
                raise ValueError(
                    f"labelled: nobody of fold {fold!r} is, and what is chosen for other folds is "
                    "validated on its labelled people"
                )
        return self

    def is_labelled(self, group: str | None) -> bool:
        """Whether training and choices see a group's labels."""
        return self.labelled is None or group in self.labelled

    @property
    def identity(self) -> JsonValue:
        """Who is tested with whom, and who is labelled; the videos themselves are the user's."""
        folds: dict[str, JsonValue] = {fold: list(names) for fold, names in self.folds.items()}
        return folds if self.labelled is None else {"folds": folds, "labelled": [*self.labelled]}


Data = Annotated[SyntheticData | PeopleData, Field(discriminator="kind")]


class Group(Config):
    """Rows that stand in one table."""

    title: str
    controls_of: tuple[str, ...] = ()
    """Other groups, with the same labels and first weights, whose controls these rows face beside
    those of their own."""
    beside: tuple[str, ...] = ()
    """Rows of other groups that are shown too, and not compared."""


class Tuning(Config):
    """How settings are chosen, the same for every row that has any to choose."""

    num_trials: int = Field(ge=1)
    """Settings that are tried, for controls and distilled rows alike."""
    seeds: tuple[int, ...] = Field((1000,), min_length=1)
    """Of the trials; none of the seeds that are reported."""


class Row(Config):
    """One way to train a network; the layers of its settings, from the bottom: the recipe, `over`
    of the row that it is like, the choice of `choice_of`, its own `over`, its own choice."""

    label: str
    """What tables call it."""
    kind: Kind
    recipe: Path
    """A recipe, beside the ladder."""
    group: str | None = None
    """Rows of one group have the same labels and first weights, and share their best control."""
    like: str | None = None
    """Another row: its recipe, kind, group, seeds, `over` and `uses` lie below this row's."""
    over: Settings = Field(default_factory=dict)
    below: Settings = Field(default_factory=dict)
    """`over` of the row that this one is like, filled in when the ladder is read."""
    uses: dict[str, str] = Field(default_factory=dict)
    """Dotted path of a setting -> the row whose run folder, or cache, goes there. `null` takes away
    what the row that this one is like has there."""
    tune: tuple[str | Axis, ...] = ()
    """Axes, by the name that the study gives them or written out; trials are their product."""
    choice_of: str | None = None
    """Take the settings that were chosen for this row instead of tuning again."""
    total_time_of: str | None = None
    """Train for as long as this row and all that it reads took: the epochs are chosen. The training
    of first weights is left out for a row that has some from other videos itself."""
    versus: str | None = None
    """The row to compare with; by default the best control of the group."""
    seeds: tuple[int, ...] | None = None
    """Instead of the study's."""
    folds: bool = True
    """Whether it is trained on each fold, where the study has folds."""
    probe: bool = False
    """Also test it with frames shuffled, reversed and frozen."""

    @property
    def is_prerequisite(self) -> bool:
        """Read by others and compared with nobody."""
        return self.kind in PREREQUISITES


class Goals(Config):
    """What a study was made for; its report says what is reached and what is not."""

    control: str
    """The row that says how hard the study is."""
    control_pct: tuple[float, float] | None = None
    """Lowest and highest test top-1 of it that leave room for a gain."""
    teacher_pct: float | None = None
    """Test top-1 of the teacher, at least."""
    fewer_multiply_adds: float | None = None
    """The teacher's over the student's, at least."""
    gain_points: float
    """Of the recipe that validation shows best over the best control, with an interval above 0."""
    gain_in: tuple[str, ...] = Field(min_length=1)
    """The groups in which this is asked."""


class Quick(Config):
    """The same walk on tiny data, for tests: nothing that it measures means anything."""

    rows: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    folds: tuple[str, ...] = ()
    """The first folds of a study that has any."""
    num_trials: int = Field(2, ge=1)
    over: Settings = Field(default_factory=dict)
    """Laid over every recipe."""


class Study(Config):
    """Rows on one data set."""

    title: str
    data: Data
    sources: dict[str, SyntheticData] = Field(default_factory=dict)
    """Name -> videos that first weights are trained on, and no row is scored on."""
    seeds: tuple[int, ...] = Field(min_length=1)
    teacher: str
    """The row that agreement is measured with."""
    tuning: Tuning
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Name -> settings that a trial takes one of."""
    groups: dict[str, Group]
    """By name, in the order of the tables."""
    rows: dict[str, Row]
    goals: Goals | None = None
    quick: Quick

    @model_validator(mode="before")
    @classmethod
    def _fill_in_likes(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("rows"), Mapping):
            rows = data["rows"]
            return {**data, "rows": {name: _filled(name, rows, ()) for name in rows}}
        return data

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        for name, row in self.rows.items():
            where = f"rows.{name}"
            referred = [*row.uses.values(), row.choice_of, row.total_time_of, row.versus]
            for other in referred:
                _check_known(other, self.rows, where)
            if row.kind == "cache" and (row.seeds is not None or (self.folds and not row.folds)):
                raise ValueError(
                    f"{where}: a cache has the study's seeds and folds; it is of the draws of one "
                    "seed on one split"
                )
            if row.is_prerequisite != (row.group is None):
                raise ValueError(f"{where}: a row is compared in a group, or is read by others")
            tuned = [row.choice_of, row.total_time_of] if row.total_time_of else []
            if any(other is None or not self.rows[other].tune for other in tuned):
                raise ValueError(
                    f"{where}: total_time_of and choice_of name two rows that are tuned: whose "
                    "time it has, and which one is trained for longer"
                )
            _check_known(row.group, self.groups, f"{where}.group")
            for axis in row.tune:
                if isinstance(axis, str):
                    _check_known(axis, self.axes, f"{where}.tune")
        for name, group in self.groups.items():
            if name in self.rows:
                raise ValueError(f"groups.{name}: a row has this name too, and --only takes both")
            for other in group.controls_of:
                _check_known(other, self.groups, f"groups.{name}.controls_of")
            for other in group.beside:
                _check_known(other, self.rows, f"groups.{name}.beside")
        _check_known(self.teacher, self.rows, "teacher")
        if self.goals is not None:
            _check_known(self.goals.control, self.rows, "goals.control")
            for name in self.goals.gain_in:
                _check_known(name, self.groups, "goals.gain_in")
        for name in self.quick.rows:
            _check_known(name, self.rows, "quick.rows")
        return self

    @model_validator(mode="after")
    def _everybody_has_as_many_trials(self) -> Study:
        wanted = self.tuning.num_trials
        for name, row in self.rows.items():
            number = len(self.trials(name))
            if row.tune and number != wanted:
                raise ValueError(
                    f"rows.{name}.tune: {number} trials, and every row that is tuned has "
                    f"{wanted} (tuning.num_trials), so that none is favoured"
                )
            if row.tune and (row.choice_of or row.is_prerequisite):
                raise ValueError(
                    f"rows.{name}: tunes on top of another row's choice, or is read by others; "
                    "its trials would be more than the others have"
                )
        if set(self.tuning.seeds) & set(self.seeds):
            raise ValueError("tuning.seeds: a seed that is reported has no part in choosing")
        return self

    @property
    def all_data(self) -> tuple[Data, ...]:
        """The study's own videos first, then those of its sources."""
        return (self.data, *self.sources.values())

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds; none where the study has no folds."""
        return tuple(self.data.folds) if isinstance(self.data, PeopleData) else ()

    @property
    def inner_folds(self) -> tuple[str, ...]:
        """Pairs of folds that are left out together: each is the other's validation."""
        return tuple("-".join(pair) for pair in itertools.combinations(self.folds, 2))

    @property
    def ordered_inner_folds(self) -> tuple[str, ...]:
        """The same either way round: `2-1` has the settings chosen for fold 2, scored on fold 1."""
        return tuple("-".join(pair) for pair in itertools.permutations(self.folds, 2))

    def trials(self, name: str) -> list[Settings]:
        """The settings that are tried for a row, in order; none where nothing is tuned."""
        row = self.rows[name]
        axes = [self.axes[axis] if isinstance(axis, str) else axis for axis in row.tune]
        if not axes:
            return []
        return [
            {path: value for one in combination for path, value in one.items()}
            for combination in itertools.product(*axes)
        ]

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds that a row is reported with; a cache is of the draws of a seed, so there is one
        for those of the trials too, first."""
        row = self.rows[name]
        if row.seeds is not None:
            return row.seeds
        return (*self.tuning.seeds, *self.seeds) if row.kind == "cache" else self.seeds


class Ladder(Config):
    """All studies of the ablation."""

    studies: dict[str, Study]


def load_ladder(path: Path) -> Ladder:
    """Read and check a ladder.

    Raises:
        ConfigError: an unknown key or name (with the nearest), rows with unequal numbers of trials.
    """
    return load_config(Ladder, path)


def ladder_file() -> Path:
    """`configs/ablation/ladder.yaml` of the current folder, or of this package's checkout."""
    for folder in (Path(), Path(videokd.__file__).parents[1]):
        path = folder / "configs" / "ablation" / "ladder.yaml"
        if path.is_file():
            return path
    raise ConfigError(
        f"no configs/ablation/ladder.yaml in {Path.cwd()}; run this where the project is checked "
        "out"
    )


def quick_study(study: Study, data: Data, sources: Mapping[str, SyntheticData]) -> Study:
    """The study with the rows, seeds, folds and trials of its quick form, on other data."""
    quick = study.quick
    over = dict(quick.over)
    rows = {
        name: row.model_copy(
            update={
                "over": {**row.over, **over},
                "seeds": row.seeds and row.seeds[:1],
                "tune": _first_trials(study, name),
            }
        )
        for name, row in study.rows.items()
        if name in quick.rows
    }
    groups = {
        name: group.model_copy(update={"beside": tuple(one for one in group.beside if one in rows)})
        for name, group in study.groups.items()
    }
    values = {
        "title": study.title,
        "teacher": study.teacher,
        "groups": {name: group.model_dump() for name, group in groups.items()},
        "data": data.model_dump(),
        "sources": {name: source.model_dump() for name, source in sources.items()},
        "seeds": quick.seeds,
        "tuning": {"num_trials": quick.num_trials, "seeds": study.tuning.seeds},
        "rows": {name: row.model_dump(exclude={"like"}) for name, row in rows.items()},
        "quick": quick.model_dump(),
    }
    return Study.model_validate(values)


def _first_trials(study: Study, name: str) -> tuple[Axis, ...]:
    trials = study.trials(name)[: study.quick.num_trials]
    return (tuple(trials),) if trials else ()


def _filled(name: str, rows: Mapping[str, Any], seen: tuple[str, ...]) -> Any:
    """A row's plain data with that of the row that it is like below its own."""
    row = rows[name]
    other = row.get("like") if isinstance(row, Mapping) else None
    if other is None:
        return row
    if other not in rows or name in seen:
        problem = "is like itself" if name in seen else f"is like {other!r}, which is no row"
        raise ValueError(f"rows.{name}: {problem}")
    below = _filled(other, rows, (*seen, name))
    taken = {key: below[key] for key in _INHERITED if key in below}
    own = {**taken, **row}
    own["below"] = {**below.get("below", {}), **below.get("over", {})}
    own["over"] = row.get("over", {})
    uses = {**below.get("uses", {}), **row.get("uses", {})}
    own["uses"] = {path: name for path, name in uses.items() if name is not None}
    return own


def _check_known(name: str | None, known: Mapping[str, object], where: str) -> None:
    if name is not None and name not in known:
        raise ValueError(f"{where}: {name!r} is not there; {did_you_mean(name, list(known))}")

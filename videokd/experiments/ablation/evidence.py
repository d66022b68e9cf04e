"""From finished runs to what can be said of a row: every seed, the gain, and how sure it is.

Nothing here reads anything but results, choices and the ladder.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from videokd.experiments.ablation.answers import Answers, Fold, test_split
from videokd.experiments.ablation.plan import NotChosen, Plan
from videokd.experiments.ablation.records import Results
from videokd.experiments.ablation.tuning import FAILED, Scored, validated
from videokd.metrics import LEVEL, SeedTest, holm, seed_test

BEST_CONTROL = "best control"
_JUDGED = ("placebo", "distilled")
"""What the ladder asks about; controls are what is asked against."""


@dataclass(frozen=True)
class RowReport:
    """One row over its seeds; percentages, and points of top-1."""

    name: str
    label: str
    kind: str
    group: str
    seeds_pct: dict[int, float]
    """Every finished seed, over the folds of one together."""
    num_wanted: int
    """Seeds that the ladder wants."""
    failed: tuple[str, ...] = ()
    """Of runs whose loss was no number."""
    val_pct: float | None = None
    """Validation, by which the best control and the best recipe are chosen."""
    versus: str | None = None
    """What it is compared with; None for the best control itself, and until both have all seeds."""
    test: SeedTest | None = None
    adjusted_p: float | None = None
    """Holm's, over all placebos and distilled rows of its group, be they finished or not."""
    detectable_pct: float | None = None
    """The smallest difference found with 80 % power, at the level of the correction's first step
    for those that it is for, and at 5 % for others."""
    agreement_pct: float | None = None
    """Share of test videos that it puts in the class of its teacher, or of the study's."""
    ece_pct: float | None = None
    nll: float | None = None
    train_minutes: float | None = None
    """Of one run."""
    read_minutes: float | None = 0.0
    """Of the networks that it reads, trained once for all seeds; None while one is missing."""
    epochs: int | None = None
    gmacs_per_video: float | None = None
    params_m: float | None = None
    probe: dict[str, float] | None = None
    over: dict[str, Any] = field(default_factory=dict)
    """What was chosen for it."""

    @property
    def mean_pct(self) -> float | None:
        """Over seeds."""
        return statistics.fmean(self.seeds_pct.values()) if self.seeds_pct else None

    @property
    def verdict(self) -> str | None:
        """By the corrected p where there is one."""
        if self.test is None:
            return None
        p = self.test.p_value if self.adjusted_p is None else self.adjusted_p
        return self.test.verdict_at(p)


@dataclass(frozen=True)
class GroupReport:
    """The rows of one table."""

    name: str
    title: str
    best_control: dict[str, str]
    """Fold (or `all`) -> the control with the highest validation."""
    control_lacks: tuple[int, ...]
    """Seeds for which the best control has no number yet, or never: while there is one, nothing is
    compared with it."""
    best_recipe: dict[str, str]
    """The same of the distilled rows that have trials of their own."""
    recipe_test: SeedTest | None
    """The best recipe against the best control, fold by fold as validation chose them."""
    shorter_control: dict[str, str]
    """The best among the controls that are not given a teacher's time, where that is another."""
    recipe_over_shorter: SeedTest | None
    """The best recipe against that: what it is worth where the teacher is there already."""
    labels: dict[str, str]
    """Of the rows named above, which may be another group's."""
    rows: tuple[RowReport, ...]
    beside: tuple[RowReport, ...]
    """Of other groups, for comparison with the eye."""


@dataclass(frozen=True)
class OverPlacebo:
    """A distilled row against its placebo, on the same videos and seeds."""

    label: str
    placebo_label: str
    test: SeedTest
    adjusted_p: float
    """Holm's, over all placebos of the study."""


@dataclass(frozen=True)
class StudyReport:
    """All that is said of a study."""

    name: str
    title: str
    num_videos: int
    num_people: int | None
    num_scenes: int | None
    """Where videos of several classes show one scene."""
    teacher: RowReport | None
    groups: tuple[GroupReport, ...]
    over_placebos: tuple[OverPlacebo, ...]
    """What a row's teacher told it that the placebo's did not."""
    stale: tuple[str, ...]
    """Runs whose settings are no longer the ladder's; they are in no table."""


def report_study(plan: Plan, results: Results, study: str) -> StudyReport:
    """Everything that the finished runs of a study say."""
    return _Reporter(plan, results, study).report()


class _Reporter:
    def __init__(self, plan: Plan, results: Results, study: str) -> None:
        self.plan = plan
        self.results = results
        self.name = study
        self.study = plan.study(study)
        self.answers = Answers(plan, results, study)
        self.folds = self.answers.folds

    def report(self) -> StudyReport:
        rows = {name: self._row(name) for name in self.study.rows}
        best = {name: self._best(self._controls(name)) for name in self.study.groups}
        for name, row in rows.items():
            if row.group:
                rows[name] = self._compared(row, best[row.group])
        rows = _corrected(rows)
        groups = tuple(self._group(name, rows, best[name]) for name in self.study.groups)
        num_groups = len(set(self.answers.groups)) if self.answers.groups is not None else None
        is_of_people = bool(self.study.folds)
        return StudyReport(
            name=self.name,
            title=self.study.title,
            num_videos=len(self.answers.labels),
            num_people=num_groups if is_of_people else None,
            num_scenes=None if is_of_people else num_groups,
            teacher=rows[self.study.teacher] if rows[self.study.teacher].seeds_pct else None,
            groups=groups,
            over_placebos=self._over_placebos(rows),
            stale=self._stale(),
        )

    def _group(self, name: str, rows: dict[str, RowReport], best: dict[Fold, str]) -> GroupReport:
        group = self.study.groups[name]
        controls = self.answers.correct_of(best) if best else {}
        shorter = self._best([one for one in self._controls(name) if not self._is_given_time(one)])
        if shorter == best:
            shorter = {}
        shorter_controls = self.answers.correct_of(shorter) if shorter else {}
        recipe = self._best(self._recipes(name))
        recipes = self.answers.correct_of(recipe) if recipe else {}
        return GroupReport(
            name=name,
            title=group.title,
            best_control=_by_name(best),
            control_lacks=tuple(s for s in self.study.seeds if best and s not in controls),
            best_recipe=_by_name(recipe),
            recipe_test=self._paired(recipes, controls, self.study.seeds),
            shorter_control=_by_name(shorter),
            recipe_over_shorter=self._paired(recipes, shorter_controls, self.study.seeds),
            labels={
                row: self.study.rows[row].label
                for chosen in (best, recipe, shorter)
                for row in chosen.values()
            },
            rows=tuple(row for row in rows.values() if row.group == name),
            beside=tuple(rows[other] for other in group.beside),
        )

    # What the runs say.

    def _row(self, name: str) -> RowReport:
        row = self.study.rows[name]
        records = self.answers.records(name)
        seeds = self.answers.correct[name]
        tests = [
            score
            for record in records
            if record.key.seed in seeds
            for split, score in record.scores.items()
            if split == test_split(record.key.fold)
        ]
        weights = [score.num_videos for score in tests]
        known = [record for record in records if record.failed is None]
        return RowReport(
            name=name,
            label=row.label,
            kind=row.kind,
            group=row.group or "",
            seeds_pct={
                seed: 100 * int(correct.sum()) / len(correct) for seed, correct in seeds.items()
            },
            num_wanted=len(self.study.seeds_of(name)),
            failed=tuple(f"{r.key}: {r.failed}" for r in records if r.failed is not None),
            val_pct=self._validation_pct(name),
            agreement_pct=self._agreement_pct(name),
            ece_pct=_mean([score.ece_pct for score in tests], weights),
            nll=_mean([score.nll for score in tests], weights),
            train_minutes=_mean([record.train_seconds / 60 for record in known]),
            read_minutes=self._read_minutes(name),
            epochs=known[0].epochs if known else None,
            gmacs_per_video=known[0].gmacs_per_video if known else None,
            params_m=known[0].params_m if known else None,
            probe=_mean_probe([record.probe for record in known if record.probe]),
            over=self._chosen(name),
        )

    def _agreement_pct(self, name: str) -> float | None:
        """Mean over seeds, with the run of the same seed, or the only one, of the row's own
        teacher; of the study's where it has none."""
        taught_by = self.study.rows[name].uses.get("teacher.checkpoint", self.study.teacher)
        teacher, mine = self.answers.predicted(taught_by), self.answers.predicted(name)
        if not teacher or not mine or name == taught_by:
            return None
        first = next(iter(teacher.values()))
        same = [
            float((classes == teacher.get(seed, first)).mean()) for seed, classes in mine.items()
        ]
        return 100 * statistics.fmean(same)

    def _read_minutes(self, name: str) -> float | None:
        """One run of each network that a row reads, and of those that they read."""
        means = [
            _mean([record.train_seconds / 60 for record in self.answers.records(other)])
            for other in self.plan.read_by(self.name, name)
        ]
        known = [mean for mean in means if mean is not None]
        return math.fsum(known) if len(known) == len(means) else None

    def _chosen(self, name: str) -> dict[str, Any]:
        """Setting -> value; where folds chose differently, `fold: setting`."""
        choices = {f: self.plan.choices.find(self.name, name, f) for f in self.folds}
        known = {fold: choice.over for fold, choice in choices.items() if choice is not None}
        values = list(known.values())
        if all(over == values[0] for over in values):
            return dict(values[0]) if values else {}
        return {
            f"{fold}: {path}": value for fold, over in known.items() for path, value in over.items()
        }

    # Which control and which recipe are the best.

    def _controls(self, group: str) -> list[str]:
        groups = {group, *self.study.groups[group].controls_of}
        rows = self.study.rows.items()
        return [name for name, row in rows if row.kind == "control" and row.group in groups]

    def _is_given_time(self, name: str) -> bool:
        """Whether a control, or one that it learns from, is trained for a teacher's time too."""
        reads = self.plan.read_by(self.name, name)
        return any(self.study.rows[one].total_time_of is not None for one in (name, *reads))

    def _recipes(self, group: str) -> list[str]:
        """Distilled rows with trials of their own: over folds, others are not validated."""
        rows = self.study.rows.items()
        return [
            name
            for name, row in rows
            if row.kind == "distilled" and row.group == group and self.study.trials(name)
        ]

    def _best(self, names: list[str]) -> dict[Fold, str]:
        """Fold -> the row whose validation is best; empty until all of them are validated."""
        best: dict[Fold, str] = {}
        for fold in self.folds:
            scored = {name: self._validated(name, fold) for name in names}
            known = {name: score for name, score in scored.items() if score is not None}
            if not known or len(known) < len(names):
                return {}
            best[fold] = max(known, key=lambda name: known[name])
        return best

    def _validated(self, name: str, fold: Fold) -> Scored | None:
        """A row's validation: of the reported runs, which are more, or over folds of tuning."""
        if fold is None:
            there = self.answers.records(name)
            if len(there) < len(self.plan.run_keys(self.name, name)):
                return None
            known = [record.scores["val"] for record in there if record.failed is None]
            if len(known) < len(there):
                return FAILED
            top1 = statistics.fmean(score.top1_pct for score in known)
            return Scored(top1, -statistics.fmean(score.nll for score in known))
        try:
            trial = None
            if self.study.trials(name):
                choice = self.plan.choices.find(self.name, name, fold)
                if choice is None:
                    return None
                trial = choice.trial
            return validated(self.plan, self.results, self.name, name, fold, trial)
        except NotChosen:
            return None

    def _validation_pct(self, name: str) -> float | None:
        if self.study.rows[name].is_prerequisite:
            return None
        scores = [self._validated(name, fold) for fold in self.folds]
        known = [score.top1_pct for score in scores if score is not None and score != FAILED]
        return statistics.fmean(known) if len(known) == len(scores) else None

    # The comparison.

    def _compared(self, row: RowReport, best: dict[Fold, str]) -> RowReport:
        wanted = self.study.rows[row.name].versus
        if wanted is not None:
            theirs, versus = self.answers.correct[wanted], self.study.rows[wanted].label
        elif best:
            if set(best.values()) == {row.name}:
                return row
            theirs, versus = self.answers.correct_of(best), BEST_CONTROL
        else:
            return row
        seeds = self.study.seeds_of(row.name)
        test = self._paired(self.answers.correct[row.name], theirs, seeds)
        return row if test is None else replace(row, versus=versus, test=test)

    def _paired(
        self,
        mine: dict[int, np.ndarray],
        theirs: dict[int, np.ndarray],
        seeds: Sequence[int],
    ) -> SeedTest | None:
        """On all seeds that the ladder wants, never on those alone that are done or went well."""
        if not set(seeds) <= mine.keys() & theirs.keys():
            return None
        return seed_test(
            np.stack([mine[seed] for seed in seeds]),
            np.stack([theirs[seed] for seed in seeds]),
            groups=self.answers.groups,
        )

    def _over_placebos(self, rows: dict[str, RowReport]) -> tuple[OverPlacebo, ...]:
        """Each placebo's row is the one that it is like; Holm's correction over these."""
        found = []
        placebos = {
            name: row.like
            for name, row in self.study.rows.items()
            if row.kind == "placebo" and row.like is not None
        }
        for name, taught in placebos.items():
            correct, seeds = self.answers.correct, self.study.seeds_of(name)
            test = self._paired(correct[taught], correct[name], seeds)
            if test is not None:
                found.append((rows[taught].label, rows[name].label, test))
        p_values = [test.p_value for *_, test in found]
        corrected = holm(p_values, num_hypotheses=len(placebos))
        return tuple(
            OverPlacebo(label, placebo, test, p)
            for (label, placebo, test), p in zip(found, corrected, strict=True)
        )

    def _stale(self) -> tuple[str, ...]:
        """Lines that the ladder no longer stands behind."""
        found = []
        for key, record in self.results.records.items():
            if key.study != self.name:
                continue
            if key.row not in self.study.rows:
                found.append(f"{key}: no such row any more")
                continue
            try:
                is_same = record.digest == self.plan.job(key).digest
            except NotChosen:
                is_same = False
            except (KeyError, IndexError):  # a trial or fold that is gone
                is_same = False
            if not is_same:
                found.append(f"{key}: made by other settings")
        return tuple(found)


def _corrected(rows: dict[str, RowReport]) -> dict[str, RowReport]:
    """Holm's correction over all that a table asks: each placebo and each distilled row of it,
    those too that are not run yet or came to no number."""
    found = {
        name: row if row.test is None else replace(row, detectable_pct=row.test.detectable_pct)
        for name, row in rows.items()
    }
    for group in {row.group for row in rows.values()}:
        judged = [name for name, row in rows.items() if row.group == group and row.kind in _JUDGED]
        tests = {name: test for name in judged if (test := rows[name].test) is not None}
        corrected = holm([test.p_value for test in tests.values()], num_hypotheses=len(judged))
        for (name, test), p in zip(tests.items(), corrected, strict=True):
            least = test.detectable_at(LEVEL / len(judged))
            found[name] = replace(rows[name], adjusted_p=p, detectable_pct=least)
    return found


def _by_name(rows: dict[Fold, str]) -> dict[str, str]:
    return {str(fold or "all"): row for fold, row in rows.items()}


def _mean(values: list[float], weights: list[int] | None = None) -> float | None:
    if not values:
        return None
    return float(np.average(values, weights=weights))


def _mean_probe(probes: list[dict[str, float] | None]) -> dict[str, float] | None:
    known = [probe for probe in probes if probe is not None]
    if not known:
        return None
    return {name: statistics.fmean(probe[name] for probe in known) for name in known[0]}

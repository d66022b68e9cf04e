"""`videokd reproduce ablation`: choose, run, report, as far as the time goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from videokd.config import did_you_mean, parse_config
from videokd.errors import ConfigError
from videokd.experiments.ablation.child import in_processes
from videokd.experiments.ablation.choices import Choices
from videokd.experiments.ablation.data import make_people, prepare_data
from videokd.experiments.ablation.ladder import (
    Data,
    Ladder,
    PeopleData,
    Study,
    SyntheticData,
    ladder_file,
    load_ladder,
    quick_study,
)
from videokd.experiments.ablation.plan import NotChosen, Places, Plan
from videokd.experiments.ablation.records import Key, Results
from videokd.experiments.ablation.report import write_report
from videokd.experiments.ablation.runner import (
    Clock,
    Launch,
    Outcome,
    Runner,
    in_this_process,
    missing,
    only_one,
)
from videokd.experiments.ablation.tuning import choose_all, is_current
from videokd.progress import say, show_progress

if TYPE_CHECKING:
    from videokd.recipe import Device

Stages = Literal["all", "tune", "run", "report"]

REPORT = Path("docs/ablation.md")
RESULTS = Path("results/ablation")
RUNS = Path("runs/ablation")
QUICK = Path("runs/ablation_quick")


@dataclass(frozen=True)
class Request:
    """What of the ablation is asked for."""

    stage: Stages = "all"
    only: tuple[str, ...] = ()
    """Rows (`logits`, `embedded/logits`), tables of them (`embedded/losses`) or studies; all of
    them by default."""
    seeds: tuple[int, ...] = ()
    """Of the reported runs; the ladder's by default."""
    minutes: float | None = None
    """No run is started that would not end in this time, and what still runs then is stopped."""
    jobs: int = 1
    """Single-threaded runs side by side."""
    device: Device = "auto"
    quick: bool = False
    """The same walk on tiny data, below `runs/ablation_quick`."""
    quiet: bool = False


@dataclass
class Done:
    """What a call came to."""

    num_done: int = 0
    num_left: int = 0
    out_of_time: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    """Run or row -> what kept it from being done."""
    report: dict[str, Any] | None = None
    """As in `report.json`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def text(self) -> str:
        """How it stands, and how to go on."""
        lines = [f"{where}: {why}" for where, why in self.failed.items()]
        lines.append(f"{self.num_done} runs done, {self.num_left} left")
        if self.num_left:
            why = "out of time" if self.out_of_time else "not all could be run"
            lines[-1] += f" ({why}); start the same command again to go on"
        return "\n".join(lines)


def places_of(request: Request) -> Places:
    """Where things lie; the quick form touches nothing that is committed."""
    ladder = ladder_file()
    if request.quick:
        return Places(
            ladder=ladder,
            chosen=QUICK / "chosen.yaml",
            results=QUICK / "results",
            runs=QUICK / "runs",
            report=QUICK / "ablation.md",
        )
    chosen = ladder.with_name("chosen.yaml")
    return Places(ladder=ladder, chosen=chosen, results=RESULTS, runs=RUNS, report=REPORT)


def run_ablation(
    request: Request, *, places: Places | None = None, launch: Launch | None = None
) -> Done:
    """Do what is asked for and not done yet.

    Args:
        request: which rows, which stage, for how long.
        places: where things lie; by default as `places_of` says.
        launch: how a run is started; by default in a process of its own, the quick form's in this
            one.

    Raises:
        UserError: a ladder, data or results that cannot be read, or a name that is not known.
    """
    ladder, places = read_ladder(request, places or places_of(request))
    work = _Work(request, places, ladder, launch or _launch(request))
    if request.stage == "report":
        work.report()
        return work.done
    with only_one(places.results):
        work.prepare()
        if request.stage in ("all", "tune"):
            work.tune()
        if request.stage in ("all", "run"):
            work.run()
        if request.stage == "all":
            work.report()
    return work.done


def read_ladder(request: Request, places: Places) -> tuple[Ladder, Places]:
    """The ladder, or its quick form and where its indexes lie."""
    ladder = load_ladder(places.ladder)
    if not request.quick:
        return ladder, places
    moved: dict[str, str] = {}
    studies = {}
    for name, study in ladder.studies.items():
        data = _quick_data(study, places)
        sources = {
            # Of another size than the study's, as in earnest.
            source: _tiny(one, places, source, seed=number, settings=("val_videos=24",))
            for number, (source, one) in enumerate(study.sources.items(), start=1)
        }
        studies[name] = quick_study(study, data, sources)
        for one, tiny in zip(study.all_data, studies[name].all_data, strict=True):
            moved[str(one.index)] = str(tiny.index)
    return ladder.model_copy(update={"studies": studies}), replace(places, moved=moved)


def selected(ladder: Ladder, only: tuple[str, ...]) -> dict[str, list[str]]:
    """Study -> the rows asked for, in the ladder's order.

    Raises:
        ConfigError: a name that is no row, no table and no study.
    """
    rows = [(study, row) for study, one in ladder.studies.items() for row in one.rows]
    names = {(study, row): _names(ladder, study, row) for study, row in rows}
    known = sorted(set().union(*names.values()))
    for name in only:
        if name not in known:
            said = did_you_mean(name, known)
            raise ConfigError(f"no row, table or study is named {name!r}; {said}")
    found: dict[str, list[str]] = {}
    for study, row in rows:
        if not only or names[study, row] & set(only):
            found.setdefault(study, []).append(row)
    return found


def _names(ladder: Ladder, study: str, row: str) -> set[str]:
    """All that a row is asked for by: its own name, its table's and its study's."""
    group = ladder.studies[study].rows[row].group
    own = {row} if group is None else {row, group}
    return {study, *own, *(f"{study}/{name}" for name in own)}


def unavailable(plan: Plan, study: str, row: str) -> str | None:
    """Why a row's recipe cannot be read by this version, if it cannot."""
    from videokd.recipe import RunConfig

    keys = [*plan.tune_keys(study, row)[:1], *plan.run_keys(study, row)[:1]]
    for key in keys:
        try:
            parse_config(RunConfig, dict(plan.job(key).settings), source=str(key))
        except NotChosen:
            continue
        except ConfigError as error:
            return str(error)
    return None


class _Work:
    """One call: the plan is made anew whenever something was chosen."""

    def __init__(self, request: Request, places: Places, ladder: Ladder, launch: Launch) -> None:
        self.request = request
        self.places = places
        self.ladder = ladder
        self.rows = selected(ladder, request.only)
        self.results = Results(places.results)
        self.done = Done()
        self.runner = Runner(
            results=self.results,
            launch=launch,
            jobs=request.jobs,
            clock=Clock(request.minutes),
            say=self.say,
        )

    def plan(self) -> Plan:
        return Plan(self.ladder, self.places, Choices(self.places.chosen))

    def say(self, text: str) -> None:
        if not self.request.quiet:
            say(text)

    def prepare(self) -> None:
        """Videos and indexes of the studies that are asked for."""
        plan = self.plan()
        named = {
            plan.index_of(study, row)
            for study, rows in self.rows.items()
            for row in _with_read(plan, study, rows)
        }
        everything = [
            (name, data) for name, study in self.ladder.studies.items() for data in study.all_data
        ]
        for name, data in everything:
            if str(data.index) not in named:
                continue
            with show_progress(f"{name}: videos", quiet=self.request.quiet) as report:
                if self.request.quick and isinstance(data, PeopleData):
                    make_people(data, on_progress=report)
                num_processes = 1 if self.request.quick else None
                prepare_data(data, num_processes=num_processes, on_progress=report)

    def tune(self) -> None:
        """Choose settings, as far as the time goes."""
        while True:
            plan = self.plan()
            wanted = {name: _with_read(plan, name, rows) for name, rows in self.rows.items()}
            said = [
                text
                for study, rows in wanted.items()
                for text in choose_all(plan, self.results, study, rows)
            ]
            for text in said:
                self.say(text)
            if said:  # one choice may be what another waited for
                continue
            keys = [
                key
                for study, rows in wanted.items()
                for row in self._available(plan, study, rows)
                for key in _open_tune_keys(plan, study, row)
            ]
            todo = [key for key in missing(plan, self.results, keys) if not self._failed(key)]
            if not todo or not self._do(plan, todo):
                return

    def run(self) -> None:
        """The runs that are reported, with what was chosen."""
        plan = self.plan()
        keys = []
        for study, rows in self.rows.items():
            for row in self._available(plan, study, rows):
                waiting = waits_for(plan, study, row)
                if waiting is not None:
                    self.say(f"{study}/{row}: {waiting}")
                    self.done.num_left += len(plan.run_keys(study, row))
                    continue
                seeds = self.request.seeds or self.ladder.studies[study].seeds_of(row)
                keys += [key for key in plan.run_keys(study, row) if key.seed in seeds]
        self._do(plan, keys)

    def report(self) -> None:
        """Tables and pictures out of the results."""
        self.done.report = write_report(self.plan(), self.results, quick=self.request.quick)
        self.say(f"{self.places.report}: tables written")

    def _do(self, plan: Plan, keys: list[Key]) -> bool:
        """Whether it is worth to go on."""
        outcome: Outcome = self.runner.do(plan, keys)
        self.done.num_done += outcome.num_done
        self.done.num_left += outcome.num_left
        self.done.out_of_time |= outcome.out_of_time
        self.done.failed |= {str(key): text for key, text in outcome.failed.items()}
        return outcome.num_done > 0 and not outcome.out_of_time

    def _failed(self, key: Key) -> bool:
        return str(key) in self.done.failed

    def _available(self, plan: Plan, study: str, rows: list[str]) -> list[str]:
        found = []
        for row in rows:
            reason = unavailable(plan, study, row)
            if reason is None:
                found.append(row)
            elif f"{study}/{row}" not in self.done.failed:
                self.done.failed[f"{study}/{row}"] = f"not available: {reason}"
                self.say(f"{study}/{row}: not available: {reason}")
        return found


def waits_for(plan: Plan, study: str, row: str) -> str | None:
    """What has to be chosen before a row can be run, in a clause; None when all is."""
    one = plan.study(study)
    for name in _with_read(plan, study, [row]):
        if not one.trials(name) and one.rows[name].total_time_of is None:
            continue
        for fold in one.folds or (None,):
            if is_current(plan, study, name, fold):
                continue
            there = plan.choices.find(study, name, fold)
            what = "is not chosen yet" if there is None else "was chosen from other trials"
            return f"waits, {name} {what}; run `videokd reproduce ablation --stage tune`"
    return None


def _with_read(plan: Plan, study: str, rows: list[str]) -> list[str]:
    """The rows, and those whose choices or networks they need, in the ladder's order."""
    all_rows = plan.study(study).rows
    found: set[str] = set()
    todo = list(rows)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        one = all_rows[name]
        todo += [
            other
            for other in (one.choice_of, one.total_time_of, *one.uses.values())
            if other is not None
        ]
    return [name for name in all_rows if name in found]


def _open_tune_keys(plan: Plan, study: str, row: str) -> list[Key]:
    """The tuning runs of a row, where something is still to be chosen by them."""
    one = plan.study(study)
    keys = plan.tune_keys(study, row)
    if one.trials(row) and all(is_current(plan, study, row, f) for f in one.folds or (None,)):
        return []
    return keys if one.trials(row) or one.rows[row].kind == "control" else []


def _launch(request: Request) -> Launch:
    if request.quick:
        return in_this_process(request.device)
    return in_processes(request.device, request.jobs)


def _quick_data(study: Study, places: Places) -> Data:
    """Tiny videos; people are made of them by dealing them out."""
    if isinstance(study.data, SyntheticData):
        return _tiny(study.data, places, "tiny", seed=0)
    below = places.results.parent / "data"
    folds = {fold: study.data.folds[fold] for fold in study.quick.folds}
    there = {group for groups in folds.values() for group in groups}
    labelled = study.data.labelled and tuple(sorted(there & set(study.data.labelled)))
    changed = {
        "source": below / "people" / "people.csv",
        "index": below / study.data.index.name,
        "folds": folds,
        "labelled": labelled,
    }
    return study.data.model_copy(update=changed)


def _tiny(
    data: SyntheticData, places: Places, name: str, *, seed: int, settings: tuple[str, ...] = ()
) -> SyntheticData:
    folder = places.results.parent / "data" / name
    changed: dict[str, Any] = {"preset": "tiny", "settings": settings, "seed": seed}
    return data.model_copy(update={**changed, "folder": folder, "index": folder / "half.csv"})

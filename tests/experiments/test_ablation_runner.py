"""The runner on runs that take no time: order, resuming, stale results, failures, the clock."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from ablation_reference import plan_of, record, study, tuned, videos, written

from videokd.checkpoint import BEST
from videokd.errors import UserError
from videokd.experiments.ablation.records import Key, Results
from videokd.experiments.ablation.runner import (
    Clock,
    Runner,
    expected_seconds,
    missing,
    only_one,
)
from videokd.experiments.ablation.tuning import choose_all
from videokd.experiments.ablation.work import RECORD
from videokd.files import write_text


class Done:
    def __init__(self, text=""):
        self.text = text

    def outcome(self):
        return self.text

    def stop(self):
        pass


class Machine:
    """Starts runs that end at once, as `run_job` would leave them."""

    def __init__(self, plan, *, fails=(), dies_at=None, wall_seconds=70.0):
        self.plan, self.fails, self.dies_at = plan, fails, dies_at
        self.wall_seconds = wall_seconds
        self.started: list[Key] = []

    def __call__(self, job):
        if self.dies_at is not None and len(self.started) == self.dies_at:
            raise KeyboardInterrupt
        self.started.append(job.key)
        if job.key.row in self.fails:
            return Done("exit status 1: the disk is full")
        leave(self.plan, job, wall_seconds=self.wall_seconds)
        return Done()


def leave(plan, job, *, wall_seconds=70.0):
    """A run folder as a finished run leaves it."""
    top1 = dict.fromkeys(job.splits, 50.0)
    found = record(plan, job.key, top1, wall_seconds=wall_seconds)
    document = {"record": found.to_line(), "videos": []}
    write_text(job.run_dir / RECORD, json.dumps(document))
    write_text(job.run_dir / BEST, "weights")


def runner(places, machine, **changes):
    said: list[str] = []
    made = Runner(Results(places.results), machine, say=said.append, **changes)
    made.said = said  # type: ignore[attr-defined]
    return made


@pytest.fixture
def chosen(tmp_path):
    """A ladder of which every row is tuned; no reported run is done."""
    places = written(tmp_path, mine=study())
    values = dict.fromkeys(("plain", "smooth", "logits"), (50.0, 60.0))
    results = tuned(places, "mine", values)
    choose_all(plan_of(places), results, "mine", list(values))
    return places


def all_runs(plan):
    return [key for row in plan.study("mine").rows for key in plan.run_keys("mine", row)]


def test_each_run_finds_what_it_reads(chosen):
    plan = plan_of(chosen)
    keys = [key for key in reversed(all_runs(plan)) if key.row != "teacher"]
    machine = Machine(plan)
    outcome = runner(chosen, machine).do(plan, keys)
    teacher = Key("mine", "run", "teacher", 0)
    assert outcome.num_done == len(keys) + 1
    assert sorted(machine.started) == sorted([*keys, teacher])
    for student in ("logits", "shuffled"):
        first = machine.started.index(Key("mine", "run", student, 0))
        assert machine.started.index(teacher) < first


def test_what_is_done_is_never_done_again(chosen):
    plan = plan_of(chosen)
    runner(chosen, Machine(plan)).do(plan, all_runs(plan))
    again = Machine(plan)
    outcome = runner(chosen, again).do(plan, all_runs(plan))
    assert (again.started, outcome.num_done, outcome.num_left) == ([], 0, 0)
    line = (chosen.results / "mine.jsonl").read_text(encoding="utf-8")
    assert len(line.splitlines()) == len(all_runs(plan))


def test_an_interrupted_call_goes_on_where_it_was(chosen):
    plan = plan_of(chosen)
    dying = Machine(plan, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        runner(chosen, dying).do(plan, all_runs(plan))
    rest = Machine(plan)
    runner(chosen, rest).do(plan, all_runs(plan))
    assert len(dying.started) == 3
    assert sorted([*dying.started, *rest.started]) == sorted(all_runs(plan))
    records = Results(chosen.results).records
    assert {key for key in records if key.stage == "run"} == set(all_runs(plan))


def test_a_run_that_ended_while_nobody_watched_is_written_down(chosen):
    plan = plan_of(chosen)
    key = Key("mine", "run", "plain", 0)
    leave(plan, plan.job(key))
    machine = Machine(plan)
    outcome = runner(chosen, machine).do(plan, [key])
    assert (machine.started, outcome.num_done) == ([], 1)
    assert key in Results(chosen.results).records


def test_a_recipe_that_changed_is_run_again(chosen):
    plan = plan_of(chosen)
    runner(chosen, Machine(plan)).do(plan, all_runs(plan))
    rows = study()["rows"]
    rows["shuffled"]["over"]["train.epochs"] = 11
    plan = plan_of(written(chosen.ladder.parent, mine=study(rows=rows)))
    machine = Machine(plan)
    runner(chosen, machine).do(plan, all_runs(plan))
    assert machine.started == plan.run_keys("mine", "shuffled")
    records = Results(chosen.results).records
    assert all(records[key].digest == plan.job(key).digest for key in all_runs(plan))


def test_what_is_read_must_lie_here_but_what_is_told_need_not(chosen):
    """Results travel with the project, run folders do not."""
    import shutil

    plan = plan_of(chosen)
    runner(chosen, Machine(plan)).do(plan, all_runs(plan))
    shutil.rmtree(chosen.runs)
    assert missing(plan, Results(chosen.results), all_runs(plan)) == []
    results = Results(chosen.results)
    del results.records[Key("mine", "run", "logits", 1)]
    assert missing(plan, results, all_runs(plan)) == [
        Key("mine", "run", "teacher", 0),
        Key("mine", "run", "logits", 1),
    ]


def test_what_is_made_again_is_read_when_it_has_ended(chosen):
    """Weights lie in a folder long before the end of a training; no student learns from them."""
    plan = plan_of(chosen)
    runner(chosen, Machine(plan)).do(plan, all_runs(plan))
    results = Results(chosen.results)
    student, teacher = Key("mine", "run", "logits", 1), Key("mine", "run", "teacher", 0)
    del results.records[student]
    assert missing(plan, results, [student]) == [student]
    (plan.job(teacher).run_dir / RECORD).unlink()
    assert missing(plan, results, [student]) == [teacher, student]
    leave(plan, plan.job(replace(teacher, stage="tune")))
    assert missing(plan, results, [student]) == [student], "both stages train it into one folder"
    folder = plan.job(teacher).run_dir
    write_text(
        folder / RECORD, (folder / RECORD).read_text().replace(plan.job(teacher).digest, "x")
    )
    assert missing(plan, results, [student]) == [teacher, student]


def test_a_failure_is_told_with_all_that_hangs_on_it(chosen):
    plan = plan_of(chosen)
    machine = Machine(plan, fails=("teacher",))
    made = runner(chosen, machine)
    outcome = made.do(plan, all_runs(plan))
    assert outcome.num_done == 4
    assert outcome.failed[Key("mine", "run", "teacher", 0)].endswith("the disk is full")
    told = {str(key): text for key, text in outcome.failed.items()}
    assert told["mine/logits, seed 1"] == "reads mine/teacher, seed 0, which failed"
    assert outcome.num_left == 0
    assert "mine/teacher, seed 0: failed: exit status 1: the disk is full" in made.said


def test_nothing_is_started_that_would_not_end_in_time(chosen):
    plan = plan_of(chosen)
    key = Key("mine", "run", "plain", 0)
    results = Results(chosen.results)
    assert expected_seconds(plan, results, key) == 70.0, "of its trials, which have as many epochs"
    machine = Machine(plan)
    outcome = runner(chosen, machine, clock=Clock(69 / 60)).do(plan, [key])
    assert (machine.started, outcome.num_left, outcome.out_of_time) == ([], 1, True)
    outcome = runner(chosen, machine, clock=Clock(75 / 60)).do(plan, [key])
    assert (outcome.num_done, outcome.num_left, outcome.out_of_time) == (1, 0, False)


def test_a_duration_is_expected_by_epochs_then_by_rows_alike(chosen):
    plan = plan_of(chosen)
    results = Results(chosen.results)
    long = Key("mine", "run", "smooth", 0)
    for key in list(results.records):
        if key.row == "smooth":
            del results.records[key]
    slow = plan.tune_keys("mine", "logits")[0]
    results.records[slow] = record(plan, slow, {"val": 1.0}, epochs=5, wall_seconds=70.0)
    assert expected_seconds(plan, results, long) == 140.0, "the slowest of the students"
    assert expected_seconds(plan, results, Key("mine", "run", "teacher", 0)) is None


def test_a_run_that_takes_longer_than_there_is_time_is_stopped_and_left(chosen):
    plan = plan_of(chosen)
    stopped = []

    class Endless(Done):
        def outcome(self):
            return None

        def stop(self):
            stopped.append(self)

    results = runner(chosen, lambda _: Endless(), clock=Clock(0.5 / 60))
    keys = plan.run_keys("mine", "teacher")
    outcome = results.do(plan, keys)
    assert len(stopped) == 1
    assert (outcome.num_done, outcome.num_left, outcome.out_of_time) == (0, 1, True)
    assert outcome.failed == {}


def test_a_cache_is_not_expected_to_take_as_long_as_a_start(tmp_path):
    rows = study()["rows"]
    one = {"label": "x", "recipe": "recipe.yaml"}
    reads = {"kind": "cache", "uses": {"teacher.checkpoint": "teacher"}}
    rows |= {"start": one | {"kind": "start", "seeds": [0]}, "cache": one | reads}
    rows["other"] = one | reads
    places = written(tmp_path, mine=study(rows=rows))
    plan, results = plan_of(places), Results(places.results)
    start, cache, other = (Key("mine", "run", row, 0) for row in ("start", "cache", "other"))
    results.records[start] = record(plan, start, {"val": 1.0}, epochs=1, wall_seconds=3600.0)
    assert expected_seconds(plan, results, cache) is None
    results.records[other] = record(plan, other, {}, epochs=5, wall_seconds=60.0)
    assert expected_seconds(plan, results, cache) == 120.0


def test_as_many_run_side_by_side_as_asked(chosen):
    plan = plan_of(chosen)
    most = 0

    class Slow(Done):
        alive = 0

        def __init__(self, job):
            nonlocal most
            self.left = 3
            Slow.alive += 1
            most = max(most, Slow.alive)
            leave(plan, job)

        def outcome(self):
            self.left -= 1
            if self.left == 0:
                Slow.alive -= 1
            return "" if self.left <= 0 else None

    import videokd.experiments.ablation.runner as module

    module_poll, module._POLL_SECONDS = module._POLL_SECONDS, 0.0
    try:
        outcome = runner(chosen, Slow, jobs=2).do(plan, all_runs(plan))
    finally:
        module._POLL_SECONDS = module_poll
    assert (most, outcome.num_done) == (2, len(all_runs(plan)))


def test_two_commands_do_not_write_into_one_folder(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\n"
        "from videokd.experiments.ablation.runner import only_one\n"
        "with only_one(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    refused = pytest.raises(UserError, match="another `videokd reproduce ablation` writes here")
    with refused, only_one(tmp_path):
        raise AssertionError("never reached")
    other.communicate("")
    with only_one(tmp_path):
        pass


def test_other_videos_than_before_are_refused(chosen):
    import numpy as np

    plan = plan_of(chosen)
    results = Results(chosen.results)
    key = Key("mine", "run", "plain", 0)
    one = record(plan, key, {"test": 50.0})
    results.add(one, [videos("mine", np.array([0, 1, 2]))])
    results.add(one, [videos("mine", np.array([0, 1, 2]))])
    with pytest.raises(UserError, match=r"split test had other videos when earlier runs were made"):
        results.add(one, [videos("mine", np.array([0, 2, 1]))])
    assert asdict(Results(chosen.results).videos["mine", None, "test"])["split"] == "test"

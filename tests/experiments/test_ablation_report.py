"""Tables out of results made by hand, whose numbers are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ablation_reference import (
    LONG,
    RECIPE,
    people,
    plan_of,
    predicting,
    record,
    study,
    tuned,
    videos,
    written,
)

from videokd.errors import ConfigError, UserError
from videokd.experiments.ablation.evidence import BEST_CONTROL, report_study
from videokd.experiments.ablation.goals import outcomes
from videokd.experiments.ablation.ladder import Goals
from videokd.experiments.ablation.records import Key, Results, Videos, pack
from videokd.experiments.ablation.report import BEGIN, END, write_report
from videokd.experiments.ablation.tuning import choose_all
from videokd.metrics import holm, seed_test

LABELS = np.arange(60) % 3

WRONG = {
    "teacher": {0: 6},
    "plain": {0: 30, 1: 27},
    "smooth": {0: 24, 1: 24},
    "logits": {0: 12, 1: 9},
    "shuffled": {0: 27, 1: 27},
}
"""Row -> seed -> videos at the front that are wrong, on validation as on test."""


@pytest.fixture
def places(tmp_path):
    """Everything tuned and run."""
    made = written(tmp_path, mine=study())
    values = dict.fromkeys(("plain", "smooth", "logits"), (50.0, 60.0))
    results = tuned(made, "mine", values)
    choose_all(plan_of(made), results, "mine", list(values))
    plan = plan_of(made)
    for row, seeds in WRONG.items():
        for seed, wrong in seeds.items():
            key = Key("mine", "run", row, seed)
            one = predicting(plan, key, wrong, labels=LABELS, split="test")
            if row == "teacher":
                one = replace(one, gmacs_per_video=0.2, params_m=1.5, train_seconds=600.0)
            if row == "logits":
                probe = {"normal": 80.0, "shuffled": 40.0, "reversed": 50.0, "frozen": 30.0}
                one = replace(one, probe=probe)
            results.add(one, [videos("mine", LABELS)])
    made.report.write_text(f"# Mine\n\n{BEGIN}\n{END}\n\nThe end.\n", encoding="utf-8")
    return made


def rows_of(places):
    report = report_study(plan_of(places), Results(places.results), "mine")
    return report, {row.name: row for group in report.groups for row in group.rows}


def correct(row):
    return np.stack([np.arange(60) >= wrong for wrong in WRONG[row].values()])


def test_gains_are_told_against_the_best_control(places):
    report, rows = rows_of(places)
    assert report.groups[0].best_control == {"all": "smooth"}
    assert rows["plain"].seeds_pct == {0: 50.0, 1: 55.0}
    assert rows["plain"].mean_pct == 52.5
    assert (rows["smooth"].test, rows["smooth"].versus) == (None, None)
    expected = seed_test(correct("logits"), correct("smooth"))
    assert rows["logits"].test == expected
    assert rows["logits"].versus == BEST_CONTROL
    assert rows["logits"].test.difference_pct == pytest.approx(22.5)
    assert rows["plain"].test.difference_pct == pytest.approx(-7.5)


def test_p_values_are_corrected_for_all_that_the_ladder_asks(places):
    _, rows = rows_of(places)
    asked = ["logits", "shuffled"]
    tests = [seed_test(correct(row), correct("smooth")) for row in asked]
    expected = holm([test.p_value for test in tests])
    assert [rows[row].adjusted_p for row in asked] == expected
    assert rows["plain"].adjusted_p is None, "a control is not asked about"
    assert rows["shuffled"].verdict != "gain"
    for row, test in zip(asked, tests, strict=True):
        assert rows[row].detectable_pct == test.detectable_at(0.05 / 2)
    assert rows["plain"].detectable_pct == rows["plain"].test.detectable_pct


def test_what_is_not_run_yet_counts_in_the_correction(places):
    """Otherwise p would grow with every row that comes in, and a failed loss would help others."""
    results = Results(places.results)
    del results.records[Key("mine", "run", "shuffled", 1)]
    report = report_study(plan_of(places), results, "mine")
    rows = {row.name: row for row in report.groups[0].rows}
    assert rows["shuffled"].test is None, "one seed of two is no comparison"
    p = seed_test(correct("logits"), correct("smooth")).p_value
    assert rows["logits"].adjusted_p == pytest.approx(2 * p)
    assert report.over_placebos == ()


def test_videos_of_one_scene_are_drawn_together(places):
    data = study()["data"] | {"settings": ["scenes_in_all_classes=true"]}
    written(places.ladder.parent, mine=study(data=data))
    results = Results(places.results)
    plan = plan_of(places)
    for key, one in list(results.records.items()):
        results.records[key] = replace(one, digest=plan.job(key).digest)
    values = dict.fromkeys(("plain", "smooth", "logits"), (50.0, 60.0))
    choose_all(plan, results, "mine", list(values))
    plan = plan_of(places)
    for key, one in list(results.records.items()):
        results.records[key] = replace(one, digest=plan.job(key).digest)
    report = report_study(plan, results, "mine")
    (rows,) = ({row.name: row for row in group.rows} for group in report.groups)
    # Of LABELS, the n-th videos of the three classes stand side by side.
    scenes = [f"scene {video // 3}" for video in range(60)]
    assert rows["logits"].test == seed_test(correct("logits"), correct("smooth"), groups=scenes)
    assert (report.num_scenes, report.num_people) == (20, None)


def test_a_network_to_start_from_was_tested_on_other_videos(tmp_path, places):
    rows = study()["rows"]
    rows["first"] = {**rows["teacher"], "label": "first weights", "kind": "start"}
    written(places.ladder.parent, mine=study(rows=rows))
    plan, results = plan_of(places), Results(places.results)
    key = Key("mine", "run", "first", 0)
    results.add(predicting(plan, key, 1, labels=LABELS[:7], split="test"), [])
    _, found = rows_of(places)
    assert found["logits"].test == seed_test(correct("logits"), correct("smooth"))


def test_a_row_is_told_against_its_placebo(places):
    report, _ = rows_of(places)
    (one,) = report.over_placebos
    expected = seed_test(correct("logits"), correct("shuffled"))
    assert (one.label, one.placebo_label, one.test) == ("logits", "shuffled", expected)
    assert expected.difference_pct == pytest.approx(27.5)
    assert one.adjusted_p == expected.p_value
    write_report(plan_of(places), Results(places.results), quick=False)
    low, high = expected.interval_pct
    line = f"| logits | shuffled (P) | +27.50 | [{low:.2f}, {high:.2f}] |"
    assert line in places.report.read_text(encoding="utf-8")


def test_no_placebo_where_a_seed_of_it_failed(places):
    plan, results = plan_of(places), Results(places.results)
    results.add(record(plan, Key("mine", "run", "shuffled", 1), {}, failed="no number"), [])
    report, _ = rows_of(places)
    assert report.over_placebos == ()


def test_a_group_faces_its_own_controls_and_those_of_another(tmp_path):
    rows = study()["rows"]
    rows["logits"] |= {"group": "more"}
    rows["smooth"] |= {"label": "smoothed"}
    rows["trained"] = {**rows["plain"], "label": "trained", "group": "more"}
    groups = {"ladder": {"title": "Ladder"}, "more": {"title": "More", "controls_of": ["ladder"]}}
    places = written(tmp_path, mine=study(rows=rows, groups=groups))
    names = ("plain", "smooth", "trained", "logits")
    tuned(places, "mine", dict.fromkeys(names, (50.0, 60.0)))
    choose_all(plan_of(places), Results(places.results), "mine", list(names))
    places.report.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    for best, label, trained in (("smooth", "smoothed", 20), ("trained", "trained", 2)):
        plan, results = plan_of(places), Results(places.results)
        for row, wrong in {"plain": 30, "smooth": 10, "trained": trained, "logits": 5}.items():
            for seed in (0, 1):
                one = predicting(
                    plan, Key("mine", "run", row, seed), wrong, labels=LABELS, split="test"
                )
                results.add(one, [videos("mine", LABELS)])
        of_group = {
            one.name: one.best_control for one in report_study(plan, results, "mine").groups
        }
        assert of_group == {"ladder": {"all": "smooth"}, "more": {"all": best}}
        write_report(plan, results, quick=False)
        _, _, more = places.report.read_text(encoding="utf-8").partition("### More")
        assert f"Best control on validation: {label}." in more


def test_the_best_recipe_is_told_against_the_best_of_the_shorter_controls_too(tmp_path):
    """`long` has the time of a teacher, and so has the one that learns from it."""
    rows = study()["rows"]
    rows["long"] = LONG
    rows["pupil"] = {**rows["plain"], "label": "pupil", "uses": {"teacher.checkpoint": "long"}}
    wrong = {"plain": 30, "smooth": 28, "long": 14, "pupil": 16, "logits": 12}
    places = written(tmp_path, mine=study(rows=rows))
    places.report.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    tuned(places, "mine", dict.fromkeys(("plain", "smooth", "logits"), (50.0, 60.0)))
    plan, results = plan_of(places), Results(places.results)
    results.add(record(plan, Key("mine", "tune", "teacher", 0), {"val": 90.0}), [])
    choose_all(plan, results, "mine", ["plain", "smooth", "logits", "long"])
    tuned(places, "mine", {"pupil": (50.0, 60.0)})
    choose_all(plan_of(places), Results(places.results), "mine", ["pupil"])

    def run(names):
        plan, results = plan_of(places), Results(places.results)
        for row in names:
            for seed in (0, 1):
                key = Key("mine", "run", row, seed)
                one = predicting(plan, key, wrong[row] + seed, labels=LABELS, split="test")
                results.add(one, [videos("mine", LABELS)])
        document = write_report(plan, results, quick=False)
        (group,) = report_study(plan, results, "mine").groups
        return group, document["mine"]["groups"][0], places.report.read_text(encoding="utf-8")

    def test(mine, theirs):
        pair = [[np.arange(60) >= wrong[row] + seed for seed in (0, 1)] for row in (mine, theirs)]
        return seed_test(*map(np.stack, pair))

    group, _, text = run(set(wrong) - {"long"})
    assert group.best_control == {}, "a control is missing"
    assert group.recipe_over_shorter == test("logits", "smooth"), "which this one does not wait for"
    assert "The best recipe, " not in text
    group, plain, text = run(["long"])
    assert (group.best_control, group.shorter_control) == ({"all": "long"}, {"all": "smooth"})
    assert group.recipe_test == test("logits", "long")
    assert group.recipe_over_shorter == test("logits", "smooth")
    assert plain["recipe_over_shorter"] == test("logits", "smooth").to_dict()
    (low, high), (low2, high2) = (
        one.interval_pct for one in (group.recipe_test, group.recipe_over_shorter)
    )
    assert (
        f"Best control on validation: long. The best recipe, logits, is +3.33 [{low:.2f}, "
        f"{high:.2f}] over it, and +26.67 [{low2:.2f}, {high2:.2f}] over smooth, the best of those "
        "that are not given a teacher's time."
    ) in text


def test_the_best_control_is_told_once(places):
    """Where no control is given more time there is nothing besides."""
    write_report(plan_of(places), Results(places.results), quick=False)
    (group,) = rows_of(places)[0].groups
    assert (group.shorter_control, group.recipe_over_shorter) == ({}, None)
    assert "a teacher's time" not in places.report.read_text(encoding="utf-8")


def test_what_stands_beside_the_accuracy(places):
    report, rows = rows_of(places)
    # Seed 0 of the teacher is wrong on 6, the student on 12 and on 9, all in the next class.
    assert rows["logits"].agreement_pct == pytest.approx(100 * (54 + 57) / 120)
    assert rows["plain"].agreement_pct == pytest.approx(100 * (36 + 39) / 120)
    assert rows["logits"].ece_pct == 3.0
    assert rows["logits"].train_minutes == 2.0
    assert rows["logits"].read_minutes == 10.0
    assert rows["plain"].read_minutes == 0.0
    assert report.teacher.mean_pct == 90.0
    assert rows["logits"].over == {"train.optim.lr": 0.02}


def test_validation_chooses_the_best_control_and_test_does_not(places):
    """The control that tests better, and validates worse, is not the best control."""
    plan, results = plan_of(places), Results(places.results)
    for seed in (0, 1):
        key = Key("mine", "run", "plain", seed)
        one = predicting(plan, key, 0, labels=LABELS, split="test")
        worse = replace(one.scores["val"], top1_pct=1.0)
        results.add(replace(one, scores={**one.scores, "val": worse}), [])
    report, rows = rows_of(places)
    assert rows["plain"].mean_pct == 100.0
    assert report.groups[0].best_control == {"all": "smooth"}


def test_no_best_control_before_all_controls_are_done(places):
    results = Results(places.results)
    del results.records[Key("mine", "run", "plain", 1)]
    report = report_study(plan_of(places), results, "mine")
    assert report.groups[0].best_control == {}
    rows = {row.name: row for row in report.groups[0].rows}
    assert rows["logits"].test is None
    assert rows["plain"].seeds_pct == {0: 50.0}


def test_a_row_may_name_what_it_is_compared_with(tmp_path, places):
    rows = study()["rows"]
    rows["shuffled"]["versus"] = "logits"
    written(places.ladder.parent, mine=study(rows=rows))
    _, found = rows_of(places)
    assert found["shuffled"].versus == "logits"
    assert found["shuffled"].test == seed_test(correct("shuffled"), correct("logits"))


def test_runs_of_other_settings_are_in_no_table_and_are_named(places):
    rows = study()["rows"]
    rows["shuffled"]["over"]["train.epochs"] = 11
    written(places.ladder.parent, mine=study(rows=rows))
    report, found = rows_of(places)
    assert found["shuffled"].seeds_pct == {}
    assert report.stale == (
        "mine/shuffled, seed 0: made by other settings",
        "mine/shuffled, seed 1: made by other settings",
    )


def test_a_loss_that_failed_stays_in_the_table(places):
    plan, results = plan_of(places), Results(places.results)
    key = Key("mine", "run", "shuffled", 1)
    results.add(record(plan, key, {}, failed="the loss is no number at step 3"), [])
    write_report(plan, Results(places.results), quick=False)
    text = places.report.read_text(encoding="utf-8")
    assert "| shuffled (P) | 55.00 | 55.00 (1 of 2 seeds) |" in text
    assert "No number: mine/shuffled, seed 1: the loss is no number at step 3." in text


def test_a_loss_that_failed_on_one_seed_is_compared_on_none(places):
    plan, results = plan_of(places), Results(places.results)
    results.add(record(plan, Key("mine", "run", "logits", 1), {}, failed="no number"), [])
    _, rows = rows_of(places)
    assert rows["logits"].seeds_pct == {0: 80.0}
    assert (rows["logits"].test, rows["logits"].adjusted_p) == (None, None)
    assert rows["shuffled"].test is not None


def test_a_control_that_failed_is_not_the_best_and_keeps_nobody_from_it(places):
    plan, results = plan_of(places), Results(places.results)
    results.add(record(plan, Key("mine", "run", "smooth", 1), {}, failed="no number"), [])
    report, rows = rows_of(places)
    assert report.groups[0].best_control == {"all": "plain"}
    assert rows["logits"].test == seed_test(correct("logits"), correct("plain"))


def test_agreement_is_with_the_network_that_taught(tmp_path, places):
    rows = study()["rows"]
    rows["logits"]["uses"] = {"teacher.checkpoint": "plain"}
    written(places.ladder.parent, mine=study(rows=rows))
    plan, results = plan_of(places), Results(places.results)
    for seed, wrong in ((0, 6), (1, 3)):
        key = Key("mine", "run", "logits", seed)
        one = predicting(plan, key, wrong, labels=LABELS, split="test")
        results.add(one, [])
    _, found = rows_of(places)
    # `plain` is wrong on 30 and 27 of 60, the student on 6 and 3, all in the next class.
    assert found["logits"].agreement_pct == pytest.approx(100 * (36 + 36) / 120)


GOALS = {
    "control": "plain",
    "control_pct": [50, 60],
    "teacher_pct": 95,
    "fewer_multiply_adds": 20,
    "gain_points": 5,
    "gain_in": ["ladder"],
}


def test_goals_stand_beside_what_came_of_them(places):
    written(places.ladder.parent, mine=study(goals=GOALS))
    write_report(plan_of(places), Results(places.results), quick=False)
    text = places.report.read_text(encoding="utf-8")
    low, high = rows_of(places)[1]["logits"].test.interval_pct
    gain = (
        "The ladder: the best recipe at least 5 points above the best control, its interval above 0"
    )
    for line in (
        "| plain: 50 to 60 % | 52.50 % | reached |",
        "| teacher: at least 95 % | 90.00 % | missed |",
        "| multiply-adds: at least 20 times fewer | 20.0 times | reached |",
        f"| {gain} | logits: +22.50 [{low:.2f}, {high:.2f}] | reached |",
    ):
        assert line in text, line
    more = Goals.model_validate(GOALS | {"gain_points": 22.6})
    found = outcomes(more, report_study(plan_of(places), Results(places.results), "mine"))
    assert [one.reached for one in found] == [True, False, True, False]


def test_what_is_not_run_yet_is_not_known(tmp_path):
    places = written(tmp_path, mine=study(goals=GOALS))
    report = report_study(plan_of(places), Results(places.results), "mine")
    found = outcomes(Goals.model_validate(GOALS), report)
    assert [(one.found, one.reached) for one in found] == [("-", None)] * 4


def test_a_goal_is_asked_of_a_table_that_is_there(tmp_path):
    goals = GOALS | {"gain_in": ["laddr"]}
    places = written(tmp_path, mine=study(goals=goals))
    with pytest.raises(ConfigError, match="gain_in: 'laddr' is not there; did you mean 'ladder'"):
        plan_of(places)


def test_the_page_the_document_and_the_picture(places):
    document = write_report(plan_of(places), Results(places.results), quick=False)
    text = places.report.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\n" + BEGIN)
    assert text.endswith(END + "\n\nThe end.\n")
    assert (
        "60 test videos. Teacher: teacher, 90.00 %, 1.50 M parameters and 0.2000 GMACs a video; "
        "student: 0.25 M parameters and 0.0100 GMACs a video, 20.0 times fewer.\n"
    ) in text
    assert "Best control on validation: smooth." in text
    assert "| plain | 52.50 | 50.00 55.00 | 52.50 | -7.50 |" in text
    assert "| logits | 82.50 | 80.00 85.00 | 82.50 | +22.50 |" in text
    assert "| logits | 2.00 | 12.00 | 10 | 92.50 | 3.00 | 0.500 | 40.0 | 30.0 | 50.0 |" in text
    assert json.loads((places.results / "report.json").read_text(encoding="utf-8")) == document
    again = write_report(plan_of(places), Results(places.results), quick=False)
    assert again == document
    assert places.report.read_text(encoding="utf-8") == text, "written twice, the same"
    picture = places.report.parent / "images" / "ablation_mine.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_rows_without_a_run_are_named_beneath_the_table(places):
    results = Results(places.results)
    for seed in (0, 1):
        del results.records[Key("mine", "run", "shuffled", seed)]
    write_report(plan_of(places), results, quick=False)
    text = places.report.read_text(encoding="utf-8")
    assert "\nNot run yet: shuffled (P).\n" in text
    assert "| shuffled (P)" not in text
    assert "Over their placebos" not in text, "there is none to compare with"


def test_a_study_without_a_run_says_so_and_shows_no_picture(tmp_path):
    places = written(tmp_path, mine=study(goals=GOALS))
    places.report.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    write_report(plan_of(places), Results(places.results), quick=False)
    text = places.report.read_text(encoding="utf-8")
    assert text == f"{BEGIN}\n\n## By hand\n\nNo run has been finished yet.\n\n{END}\n"
    assert not (places.report.parent / "images").exists()


def test_nothing_is_written_into_a_page_without_its_marks(places):
    places.report.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"ablation.md: lacks the two lines between which tables go"
    ):
        write_report(plan_of(places), Results(places.results), quick=False)
    assert places.report.read_text(encoding="utf-8") == "# Mine\n"


FOLDS = {"1": ["p0", "p1"], "2": ["p2", "p3"], "3": ["p4", "p5"]}


@pytest.fixture
def over_people(tmp_path):
    """Two controls, two recipes and a row of another's choice, tuned and run over three folds."""
    data = {"index": "half.csv", "train_split": "train{fold}", "test_split": "test{fold}"}
    recipe = {**RECIPE, "data": data}
    settings = people(goals=GOALS)
    settings["data"] |= {"folds": FOLDS}
    rows = settings["rows"]
    rows["hint"] = {"like": "logits", "label": "hint", "tune": rows["logits"]["tune"]}
    rows["half"] = {"like": "logits", "label": "half", "choice_of": "logits"}
    places = written(tmp_path, recipe=recipe, mine=settings)
    plan, results = plan_of(places), Results(places.results)
    good_at = {
        "plain": {"1": 80.0, "2": 10.0, "3": 50.0},
        "smooth": {"1": 10.0, "2": 90.0, "3": 51.0},
        "logits": {"1": 50.0, "2": 50.0, "3": 50.0},
        "hint": {"1": 10.0, "2": 60.0, "3": 60.0},
    }
    for row, good in good_at.items():
        for key in plan.tune_keys("mine", row):
            held = {f"held{fold}": good[fold] for fold in key.fold.split("-")}
            results.add(record(plan, key, held), [])
    choose_all(plan, results, "mine", list(good_at))
    plan = plan_of(places)
    labels = np.arange(20) % 3
    wrong = {"plain": 10, "smooth": 8, "logits": 2, "hint": 3, "half": 0, "shuffled": 9}
    for row, number in wrong.items():
        for key in plan.run_keys("mine", row):
            split = f"test{key.fold}"
            people_of = tuple(np.repeat(FOLDS[key.fold], 10).tolist())
            seen = Videos("mine", key.fold, split, "index", pack(labels), people_of)
            one = predicting(plan, key, number + key.seed, labels=labels, split=split)
            results.add(one, [seen])
    return plan, results


def right_in_folds(*numbers):
    """bool [2 seeds, 60]: of the first videos of a fold, so many and one more a seed are wrong."""
    return np.stack(
        [np.concatenate([np.arange(20) >= one + seed for one in numbers]) for seed in (0, 1)]
    )


EVERYBODY = [name for fold in FOLDS.values() for name in np.repeat(fold, 10).tolist()]


def test_over_people_folds_stand_one_after_another(over_people):
    """Each fold's best control is the one that its own training people validated best."""
    report = report_study(*over_people, "mine")
    # Fold 1 validates on the people of 2 and 3: smooth; fold 2 on 1 and 3: plain.
    assert report.groups[0].best_control == {"1": "smooth", "2": "plain", "3": "smooth"}
    assert (report.num_videos, report.num_people) == (60, 6)
    rows = {row.name: row for row in report.groups[0].rows}
    assert rows["plain"].seeds_pct == {0: 50.0, 1: 45.0}
    best = right_in_folds(8, 10, 8)
    assert rows["logits"].test == seed_test(right_in_folds(2, 2, 2), best, groups=EVERYBODY)
    assert rows["logits"].test.unit == "group"


def test_over_people_each_fold_chooses_its_recipe_too(over_people):
    """By its own training people, among rows with trials of their own: of others nothing is known
    before they are tested."""
    report = report_study(*over_people, "mine")
    (group,) = report.groups
    # Folds 2 and 1 validate on the people of 1 and 3, of 2 and 3: `hint` is bad at those of 1.
    assert group.best_recipe == {"1": "hint", "2": "logits", "3": "logits"}
    expected = seed_test(right_in_folds(3, 2, 2), right_in_folds(8, 10, 8), groups=EVERYBODY)
    assert group.recipe_test == expected
    found = outcomes(Goals.model_validate(GOALS), report)[-1]
    assert found.found.startswith("hint (fold 1), logits (fold 2), logits (fold 3): +31.67 [0.00, ")
    assert found.reached is False, "so few people leave the interval at zero"


def test_over_people_there_is_a_report_when_all_is_chosen_and_nothing_run(over_people):
    plan, results = over_people
    for key in [key for key in results.records if key.stage == "run"]:
        del results.records[key]
    results.videos.clear()
    report = report_study(plan, results, "mine")
    assert report.groups[0].best_control == {"1": "smooth", "2": "plain", "3": "smooth"}
    assert report.num_videos == 0
    assert report.groups[0].recipe_test is None


def test_nothing_is_compared_with_a_control_that_lacks_a_seed(over_people):
    plan, results = over_people
    key = Key("mine", "run", "smooth", 1, "3")
    results.add(record(plan, key, {}, failed="no number"), [])
    write_report(plan, results, quick=True)
    report = report_study(plan, results, "mine")
    (group,) = report.groups
    assert group.best_control["3"] == "smooth", "validation chose it"
    assert (group.control_lacks, group.recipe_test) == ((1,), None)
    assert all(row.test is None for row in group.rows)
    text = plan.places.report.read_text(encoding="utf-8")
    assert "smooth (fold 3). It has no number for seed 1: nothing is compared." in text

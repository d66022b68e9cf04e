"""The ladder as data: layers of settings, equal numbers of trials, digests, folds."""

from __future__ import annotations

import re

import pytest
from ablation_reference import LONG, people, plan_of, record, study, tuned, written
from hypothesis import given
from hypothesis import strategies as st

from videokd.errors import ConfigError, UserError
from videokd.experiments.ablation.ladder import ladder_file, load_ladder
from videokd.experiments.ablation.overrides import nested, settings_digest, value_at
from videokd.experiments.ablation.plan import NotChosen
from videokd.experiments.ablation.records import Key, Record, Results, pack, unpack
from videokd.experiments.ablation.study import selected
from videokd.experiments.ablation.tuning import choose_all, is_current
from videokd.experiments.ablation.work import check_job, product_of


def with_row(**changes):
    rows = study()["rows"]
    return study(rows=rows | {"smooth": rows["smooth"] | changes})


# The ladder that is shipped.


@pytest.fixture(scope="module")
def shipped():
    return load_ladder(ladder_file())


def test_every_tuned_row_has_as_many_trials_as_the_others(shipped):
    for one in shipped.studies.values():
        tuned_rows = [row for row in one.rows if one.rows[row].tune]
        assert {len(one.trials(row)) for row in tuned_rows} == {one.tuning.num_trials}
        kinds = {one.rows[row].kind for row in tuned_rows}
        assert kinds == {"control", "distilled"}
        for row in tuned_rows:
            trials = [tuple(sorted(trial.items())) for trial in one.trials(row)]
            assert len(set(trials)) == len(trials), row


def test_the_shipped_ladder_has_every_rung(shipped):
    embedded = shipped.studies["embedded"]
    assert set(embedded.rows) >= {
        "cross_entropy", "label_smoothing", "mixup", "ema", "peer", "shuffled_logits",
        "random_hint", "total_time", "logits", "logits_spatial", "logits_temporal", "all",
        "all_but_logits", "all_but_spatial", "all_but_difference", "all_but_relation",
        "temporal_attention", "temporal_relation", "token_relation", "temporal_difference",
        "standardised", "dkd", "dist", "hard_targets", "hint", "attention_transfer",
        "similarity_preserving", "channel_wise", "review", "rkd", "crd", "pooled_mse",
        "self_distillation", "self_training", "few_logits", "few_all", "all_plain_teacher",
        "started_cross_entropy", "started_all", "started_all_plain_teacher", "all_labels_all",
    }  # fmt: skip
    assert len(embedded.seeds) >= 5
    shuffled = [name for name, row in embedded.rows.items() if row.kind == "placebo"]
    assert len(shuffled) == 3
    over_people = shipped.studies["people"]
    assert len(over_people.folds) == 4
    assert len(over_people.seeds) >= 3
    assert {len(groups) for groups in over_people.data.folds.values()} == {2}


def test_few_labels_show_nobody_the_labels_of_the_other_half(shipped, tmp_path):
    plan = as_if_chosen(shipped, tmp_path)
    embedded = shipped.studies["embedded"]
    several = {name for name, row in embedded.rows.items() if row.group == "all_labels"}
    for name, row in embedded.rows.items():
        if name in several or name.startswith(("source_", "all_labels_")):
            continue
        assert not {"source_student", "all_labels_teacher"} & (
            set(row.uses.values()) - ({"source_student"} if row.group == "started" else set())
        ), name
        for key in (*plan.tune_keys("embedded", name)[:1], *plan.run_keys("embedded", name)[:1]):
            settings = plan.job(key).settings
            assert value_at(settings, "data.train_split") == "labelled", name
            assert value_at(settings, "data.unlabelled_split") == (
                "unlabelled" if row.group == "few_labels" or "few_" in name else None
            ), name


def test_people_without_labels_are_seen_by_self_training_and_distilled_rows_alone(
    shipped, tmp_path
):
    """Whose labels are where, the index decides; this is which of its splits each run reads."""
    name = "people_few_labels"
    plan, few = as_if_chosen(shipped, tmp_path), shipped.studies[name]
    assert set(few.data.folds) == set(shipped.studies["people"].data.folds)
    assert [few.data.is_labelled(one) for fold in few.folds for one in few.data.folds[fold]] == [
        True, False
    ] * 4  # fmt: skip
    for row, one in few.rows.items():
        if one.kind == "start":
            continue
        sees_them = one.kind in ("cache", "distilled") or row == "self_training"
        for key in (*plan.tune_keys(name, row)[:1], *plan.run_keys(name, row)[-1:]):
            settings = plan.job(key).settings
            assert value_at(settings, "data.train_split") == f"train{key.fold}", row
            unlabelled = f"unlabelled{key.fold}" if sees_them else None
            assert value_at(settings, "data.unlabelled_split") == unlabelled, row


# What a ladder may say.


def test_unequal_numbers_of_trials_are_refused(tmp_path):
    places = written(
        tmp_path, mine=with_row(tune=["lr", [{"train.epochs": 5}, {"train.epochs": 9}]])
    )
    with pytest.raises(ConfigError, match=r"smooth.tune: 4 trials, and every row .* has 2"):
        load_ladder(places.ladder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"like": "plian"}, "is like 'plian', which is no row"),
        ({"like": "smooth"}, "is like itself"),
        ({"group": "laddr"}, "'laddr' is not there; did you mean 'ladder'"),
        ({"tune": ["rl"]}, "'rl' is not there; known: lr"),
        ({"choice_of": "plain"}, "tunes on top of another row's choice"),
        ({"uses": {"init.weights": "techer"}}, "'techer' is not there; did you mean 'teacher'"),
        ({"total_time_of": "logits"}, "total_time_of and choice_of name two rows that are tuned"),
    ],
)
def test_mistakes_in_a_row_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_ladder(written(tmp_path, mine=with_row(**changes)).ladder)


def test_a_seed_is_for_choosing_or_for_reporting(tmp_path):
    places = written(tmp_path, mine=study(tuning={"num_trials": 2, "seeds": [1]}))
    with pytest.raises(ConfigError, match="a seed that is reported has no part in choosing"):
        load_ladder(places.ladder)


def test_people_are_tested_once(tmp_path):
    data = people()["data"] | {"folds": {"1": ["a"], "2": ["a"], "3": ["c"]}}
    with pytest.raises(ConfigError, match="a group is tested in two folds"):
        load_ladder(written(tmp_path, mine=people(data=data)).ladder)


@pytest.mark.parametrize(
    ("only", "rows"),
    [
        ((), {"mine": [*study()["rows"]], "other": [*people()["rows"]]}),
        (("mine/ladder",), {"mine": ["plain", "smooth", "logits", "shuffled"]}),
        (("mine/teacher", "smooth"), {"mine": ["teacher", "smooth"], "other": ["smooth"]}),
        (("other",), {"other": [*people()["rows"]]}),
    ],
)
def test_rows_are_asked_for_by_row_table_and_study(tmp_path, only, rows):
    ladder = load_ladder(written(tmp_path, mine=study(), other=people()).ladder)
    assert selected(ladder, only) == rows


def test_a_table_and_a_row_of_one_name_are_refused(tmp_path):
    groups = study()["groups"] | {"plain": {"title": "Plain rows"}}
    with pytest.raises(ConfigError, match=r"groups.plain: a row has this name too"):
        load_ladder(written(tmp_path, mine=study(groups=groups)).ladder)


# Layers.


def test_layers_lie_in_the_order_that_is_promised(tmp_path):
    rows = study()["rows"]
    rows["logits"]["over"]["train.optim.weight_decay"] = 0.5
    rows["shuffled"]["over"]["train.optim.lr"] = 7.0
    places = written(tmp_path, mine=study(rows=rows))
    results = tuned(places, "mine", {"logits": (50.0, 60.0)})
    assert choose_all(plan_of(places), results, "mine", ["logits"])
    plan = plan_of(places)
    chosen = plan.job(Key("mine", "run", "logits", 0)).settings
    assert chosen["train"] == {
        "epochs": 10,
        "batch_size": 4,
        "optim": {"lr": 0.02, "weight_decay": 0.5},
    }
    placebo = plan.job(Key("mine", "run", "shuffled", 1)).settings
    assert placebo["train"]["optim"] == {"lr": 7.0, "weight_decay": 0.5}, "its own over lies on top"
    assert placebo["seed"] == 1
    assert placebo["teacher"]["checkpoint"] == str(places.runs / "mine/teacher/seed0")
    assert placebo["output_dir"] == str(places.runs / "mine/run/shuffled/seed1")


def test_dotted_settings_are_laid_over_key_by_key():
    assert nested({"a.b": 1, "a.c.d": [2], "a.b.e": 3}) == {"a": {"b": {"e": 3}, "c": {"d": [2]}}}
    assert value_at({"a": {"b": 0}}, "a.b") == 0
    assert value_at({"a": 1}, "a.b") is None


# Digests.


def test_the_digest_knows_what_decides_the_weights():
    settings = {"seed": 0, "train": {"epochs": 3, "optim": {"lr": 1}}, "output_dir": "x"}
    digest = settings_digest(settings, {})
    same = {"output_dir": "y", "train": {"optim": {"lr": 1.0}, "epochs": 3.0}, "seed": 0}
    assert settings_digest(same, {}) == digest
    assert settings_digest({**same, "data": {"num_workers": 2}}, {}) == digest
    assert settings_digest({**settings, "seed": 1}, {}) != digest
    assert settings_digest({**settings, "init": {"weights": "a"}}, {"init.weights": "1"}) != (
        settings_digest({**settings, "init": {"weights": "a"}}, {"init.weights": "2"})
    )
    moved = settings_digest({**settings, "init": {"weights": "b"}}, {"init.weights": "1"})
    assert moved == settings_digest({**settings, "init": {"weights": "a"}}, {"init.weights": "1"})


def test_other_videos_make_other_runs_and_another_folder_does_not(tmp_path):
    def digest(**changes):
        data = {"kind": "synthetic", "preset": "tiny", "folder": "videos", "index": "half.csv"}
        plan = plan_of(written(tmp_path, mine=study(data=data | changes)))
        return plan.job(Key("mine", "tune", "plain", 1000, trial=0)).digest

    assert digest(folder="elsewhere") == digest()
    assert digest(seed=0, settings=["train_videos=24"]) == digest(), "what the preset says anyway"
    assert digest(seed=1) != digest()
    assert digest(settings=["train_videos=36"]) != digest()


def test_other_folds_make_other_runs(tmp_path):
    def digest(*folds):
        data = {"kind": "people", "source": "index.csv", "index": "half.csv"}
        named = {str(number): list(members) for number, members in enumerate(folds, start=1)}
        plan = plan_of(written(tmp_path, mine=people(data=data | {"folds": named})))
        return plan.job(Key("mine", "run", "teacher", 0, "1")).digest

    assert digest("a", "b", "c") == digest("a", "b", "c") != digest("a", "c", "b")


def test_another_teacher_makes_its_students_others(tmp_path):
    places = written(tmp_path, mine=study())
    before = plan_of(places).job(Key("mine", "tune", "logits", 1000, trial=0)).digest
    rows = study()["rows"]
    rows["teacher"]["over"] = {"train.epochs": 11}
    places = written(tmp_path, mine=study(rows=rows))
    after = plan_of(places).job(Key("mine", "tune", "logits", 1000, trial=0)).digest
    assert before != after
    plain = Key("mine", "tune", "plain", 1000, trial=0)
    assert (
        plan_of(places).job(plain).digest
        == plan_of(written(tmp_path, mine=study())).job(plain).digest
    )


# Choosing.


def test_the_trial_with_the_best_validation_is_frozen(tmp_path):
    places = written(tmp_path, mine=study())
    results = tuned(places, "mine", {"plain": (50.0, 60.0), "logits": (70.0, 70.0)})
    said = choose_all(plan_of(places), results, "mine", ["plain", "smooth", "logits"])
    assert said == [
        "mine/plain: chosen: train.optim.lr 0.02",
        "mine/logits: chosen: train.optim.lr 0.01",
    ]
    text = places.chosen.read_text(encoding="utf-8")
    assert choose_all(plan_of(places), results, "mine", ["plain", "smooth", "logits"]) == []
    assert places.chosen.read_text(encoding="utf-8") == text
    plan = plan_of(places)
    with pytest.raises(NotChosen, match="smooth is not tuned yet"):
        plan.job(Key("mine", "run", "smooth", 0))


def test_equal_accuracies_are_told_apart_by_likelihood_and_a_failure_is_worst(tmp_path):
    places = written(tmp_path, mine=study())
    plan, results = plan_of(places), Results(places.results)
    first, second = plan.tune_keys("mine", "plain")
    worse = record(plan, first, {"val": 60.0})
    score = worse.scores["val"]
    better = Record(**{**vars(worse), "key": second, "digest": plan.job(second).digest})
    better.scores["val"] = type(score)(**{**vars(score), "nll": 0.9})
    worse = record(plan, first, {"val": 60.0})
    results.add(worse, [])
    results.add(better, [])
    choose_all(plan, results, "mine", ["plain"])
    assert plan.choices.find("mine", "plain", None).trial == 1
    first, second = plan.tune_keys("mine", "smooth")
    results.add(record(plan, first, {}, failed="the loss is no number"), [])
    results.add(record(plan, second, {"val": 0.5}), [])
    choose_all(plan, results, "mine", ["smooth"])
    assert plan.choices.find("mine", "smooth", None).trial == 1


def test_a_choice_is_stale_when_its_trials_change(tmp_path):
    places = written(tmp_path, mine=study())
    results = tuned(places, "mine", {"plain": (50.0, 60.0)})
    choose_all(plan_of(places), results, "mine", ["plain"])
    assert is_current(plan_of(places), "mine", "plain", None)
    axes = {"lr": [{"train.optim.lr": 0.01}, {"train.optim.lr": 0.03}]}
    places = written(tmp_path, mine=study(axes=axes))
    assert not is_current(plan_of(places), "mine", "plain", None)


def test_the_control_of_equal_time_gets_the_teachers_time_too(tmp_path):
    rows = study()["rows"]
    rows["long"] = LONG
    places = written(tmp_path, mine=study(rows=rows))
    results = tuned(places, "mine", {"plain": (50.0, 60.0), "logits": (70.0, 60.0)})
    plan = plan_of(places)
    choose_all(plan, results, "mine", ["plain", "logits", "long"])
    assert plan.choices.find("mine", "long", None) is None, "the teacher is not timed yet"
    teacher = Key("mine", "tune", "teacher", 0)
    results.add(record(plan, teacher, {"val": 90.0}, train_seconds=270.0), [])
    choose_all(plan, results, "mine", ["plain", "logits", "long"])
    # 60 s for 10 epochs: the student's 60 s and the teacher's 270 s are 55 epochs.
    assert plan.choices.find("mine", "long", None).over == {"train.epochs": 55}
    settings = plan_of(places).job(Key("mine", "run", "long", 0)).settings
    assert settings["train"] == {"epochs": 55, "batch_size": 4, "optim": {"lr": 0.02}}
    assert is_current(plan, "mine", "long", None)
    rows["teacher"]["over"] = {"train.epochs": 20}
    slower = plan_of(written(tmp_path, mine=study(rows=rows)))
    assert not is_current(slower, "mine", "long", None), "the teacher takes longer now"
    assert is_current(slower, "mine", "plain", None)


# What the teacher says, kept once a seed.


OVER_FOLDS = {
    **{"role": "control", "output_dir": "x", "train": {"epochs": 10}},
    "data": {"index": "half.csv", "train_split": "train{fold}", "test_split": "test{fold}"},
}
"""A recipe whose splits are a fold's."""


def with_cache(**changes):
    """`logits` reads a cache, which its placebo cannot."""
    rows = study()["rows"]
    rows["cache"] = {
        "label": "cache",
        "kind": "cache",
        "recipe": "recipe.yaml",
        "over": {"objective.terms.soft": {"kind": "soft_targets"}},
        "uses": {"teacher.checkpoint": "teacher"},
        **changes,
    }
    rows["logits"]["uses"] = {"teacher.checkpoint": "teacher", "teacher.cache": "cache"}
    rows["shuffled"]["uses"] = {"teacher.cache": None}
    return study(rows=rows)


def test_each_seed_has_a_cache_of_its_own_and_the_trials_too(tmp_path):
    places = written(tmp_path, mine=with_cache())
    choose_all(plan_of(places), tuned(places, "mine", {"logits": (70.0, 60.0)}), "mine", ["logits"])
    plan = plan_of(places)
    for key in (Key("mine", "tune", "logits", 1000, trial=0), Key("mine", "run", "logits", 1)):
        cache = Key("mine", key.stage, "cache", key.seed)
        assert cache in plan.job(key).needs
        folder = places.runs / "mine" / "cache" / f"seed{key.seed}" / "cache"
        assert plan.job(key).settings["teacher"]["cache"] == str(folder)
        assert plan.job(cache).is_cache
        assert plan.job(cache).splits == ()
        assert product_of(plan.job(cache)) == folder / "cache.json"
    assert "cache" not in plan.job(Key("mine", "run", "shuffled", 1)).settings["teacher"]
    assert [key.seed for key in plan.run_keys("mine", "cache")] == [0, 1]


def test_a_cache_of_another_teacher_is_another_cache(tmp_path):
    digests = set()
    for epochs in (10, 11):
        settings = with_cache()
        settings["rows"]["teacher"]["over"] = {"train.epochs": epochs}
        plan = plan_of(written(tmp_path / str(epochs), mine=settings))
        digests.add(plan.job(Key("mine", "tune", "logits", 1000, trial=0)).digest)
    assert len(digests) == 2


def test_the_time_of_a_row_has_its_cache_in_it(tmp_path):
    settings = with_cache()
    settings["rows"]["long"] = LONG
    places = written(tmp_path, mine=settings)
    results = tuned(places, "mine", {"plain": (50.0, 60.0), "logits": (70.0, 60.0)})
    plan = plan_of(places)
    teacher, cache = (
        Key("mine", "tune", row, seed) for row, seed in (("teacher", 0), ("cache", 1000))
    )
    results.add(record(plan, teacher, {"val": 90.0}, train_seconds=270.0), [])
    results.add(record(plan, cache, {}, train_seconds=30.0), [])
    choose_all(plan, results, "mine", ["plain", "logits", "long"])
    # 60 s for 10 epochs: the student's 60 s, the teacher's 270 s and the cache's 30 s are 60.
    assert plan.choices.find("mine", "long", None).over == {"train.epochs": 60}


@pytest.mark.parametrize(
    ("own", "epochs"), [({}, 105), ({"init.weights": "other"}, 55)], ids=["random", "from others"]
)
def test_first_weights_count_for_a_control_that_has_none(tmp_path, own, epochs):
    rows = study()["rows"]
    start = {"label": "start", "kind": "start", "recipe": "recipe.yaml", "seeds": [0]}
    rows |= {"start": start, "other": start, "long": LONG}
    rows["teacher"]["uses"] = {"init.weights": "start"}
    rows["plain"]["uses"] = own
    places = written(tmp_path, mine=study(rows=rows))
    results = tuned(places, "mine", {"plain": (50.0, 60.0), "logits": (70.0, 60.0)})
    plan = plan_of(places)
    for row, seconds in (("teacher", 270.0), ("start", 300.0), ("other", 200.0)):
        key = Key("mine", "tune", row, 0)
        results.add(record(plan, key, {"val": 90.0}, train_seconds=seconds), [])
    choose_all(plan, results, "mine", ["plain", "logits", "long"])
    # 60 s for 10 epochs; beside the student's 60 s the teacher's 270 s, and the start's 300 s.
    assert plan.choices.find("mine", "long", None).over == {"train.epochs": epochs}


def test_a_cache_has_the_seeds_and_folds_of_its_readers(tmp_path):
    refusal = "a cache has the study's seeds and folds"
    with pytest.raises(ConfigError, match=refusal):
        plan_of(written(tmp_path, mine=with_cache(seeds=[0])))
    rows = with_cache(folds=False)["rows"]
    with pytest.raises(ConfigError, match=refusal):
        plan_of(written(tmp_path, mine=people(rows=rows)))


def test_each_fold_has_a_cache_of_its_own_and_each_pair_too(tmp_path):
    places = written(tmp_path, recipe=OVER_FOLDS, mine=people(rows=with_cache()["rows"]))
    results = tuned(places, "mine", {"logits": (70.0, 60.0)})
    choose_all(plan_of(places), results, "mine", ["logits"])
    plan = plan_of(places)
    readers = [*plan.run_keys("mine", "logits"), *plan.tune_keys("mine", "logits")]
    folders = set()
    for key in readers:
        (cache,) = (one for one in plan.job(key).needs if one.row == "cache")
        assert (cache.stage, cache.seed, cache.fold) == (key.stage, key.seed, key.fold)
        assert plan.job(cache).settings["data"] == plan.job(key).settings["data"]
        folders.add(plan.run_dir(cache))
    assert len(folders) == 2 * 3 + 3, "two seeds of three folds, and three pairs"


# Test videos have no part in choosing.


@pytest.mark.parametrize("settings", [study(), people()], ids=["embedded", "people"])
def test_tuning_is_scored_on_validation_videos_alone(tmp_path, settings):
    places = written(tmp_path, mine=settings)
    plan = plan_of(places)
    keys = [key for row in plan.study("mine").rows for key in plan.tune_keys("mine", row)]
    seen = 0
    for key in plan.with_needs(keys):
        job = plan.job(key)
        check_job(job)
        assert not any(split.startswith("test") for split in job.splits), key
        seen += 1
    assert seen > 6


def test_a_student_that_teaches_itself_is_tuned_by_its_chosen_trial(tmp_path):
    rows = study()["rows"]
    rows["self"] = {
        "like": "logits",
        "label": "self",
        "kind": "control",
        "uses": {"teacher.checkpoint": "plain"},
        "tune": ["lr"],
    }
    places = written(tmp_path, mine=study(rows=rows))
    key = Key("mine", "tune", "self", 1000, trial=0)
    plan = plan_of(places)
    assert list(plan.with_needs([key])) == [], "nothing is started before the choice is made"
    results = tuned(places, "mine", {"plain": (50.0, 60.0)})
    choose_all(plan, results, "mine", ["plain"])
    plan = plan_of(places)
    assert plan.job(key).needs == (Key("mine", "tune", "plain", 1000, trial=1),)
    run = Key("mine", "run", "self", 1)
    with pytest.raises(NotChosen, match="self is not tuned yet"):
        plan.job(run)
    for one in plan.tune_keys("mine", "self"):
        results.add(record(plan, one, {"val": 70.0}), [])
    choose_all(plan, results, "mine", ["self"])
    plan = plan_of(places)
    assert plan.job(run).needs == (Key("mine", "run", "plain", 1),), "of the same seed"


def test_a_tuning_run_that_asks_for_a_test_split_is_stopped(tmp_path):
    from dataclasses import replace

    plan = plan_of(written(tmp_path, mine=study()))
    job = plan.job(Key("mine", "tune", "plain", 1000, trial=0))
    with pytest.raises(AssertionError, match="tuning never sees a test video"):
        check_job(replace(job, splits=("val", "test")))


def test_a_fold_is_tuned_on_the_people_of_the_others(tmp_path):
    """Each pair of folds is left out together once, and each is the other's validation."""
    places = written(tmp_path, recipe=OVER_FOLDS, mine=people())
    plan, results = plan_of(places), Results(places.results)
    # trial 0 is good on the people of fold 1 alone, trial 1 on the others'
    for key in plan.tune_keys("mine", "plain"):
        splits = plan.job(key).splits
        assert splits == tuple(f"held{fold}" for fold in key.fold.split("-"))
        assert plan.job(key).settings["data"]["train_split"] == f"train{key.fold}"
        good = {"held1": 90.0, "held2": 40.0, "held3": 40.0}
        if key.trial == 1:
            good = {"held1": 10.0, "held2": 60.0, "held3": 60.0}
        results.add(record(plan, key, {split: good[split] for split in splits}), [])
    choose_all(plan, results, "mine", ["plain"])
    trials = {fold: plan.choices.find("mine", "plain", fold).trial for fold in "123"}
    # Fold 1 never hears that trial 0 is good on its own people; the others do.
    assert trials == {"1": 1, "2": 0, "3": 0}
    assert plan.choices.find("mine", "plain", "1").top1_pct == 60.0
    assert plan.choices.find("mine", "plain", "2").top1_pct == 65.0
    job = plan_of(places).job(Key("mine", "run", "plain", 0, "2"))
    assert job.splits == ("test2",)
    assert job.settings["data"]["train_split"] == "train2"


# Records.


@given(st.lists(st.integers(0, 65_535)))
def test_predictions_come_back_out_of_a_line(classes):
    assert unpack(pack(classes)).tolist() == classes


def test_three_thousand_predictions_are_short():
    import numpy as np

    labels = np.arange(3120) % 12
    wrong = np.random.default_rng(0).random(3120) < 0.3
    predicted = np.where(wrong, np.random.default_rng(1).integers(0, 12, 3120), labels)
    assert len(pack(predicted)) < 3000


def test_results_come_back_as_they_were_written(tmp_path):
    places = written(tmp_path, mine=study())
    results = tuned(places, "mine", {"plain": (50.0, 60.0)})
    again = Results(places.results)
    assert again.records == results.records
    assert [path.name for path in places.results.iterdir()] == ["tuning.jsonl"]


def test_a_line_that_a_kill_cut_off_was_not_written(tmp_path):
    places = written(tmp_path, mine=study())
    results = tuned(places, "mine", {"plain": (50.0, 60.0)})
    path = places.results / "tuning.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert list(Results(places.results).records) == list(results.records)[:1]


def test_a_line_that_is_none_is_named(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.jsonl:1: not a result of ours; remove the line"):
        Results(tmp_path)


# The shipped recipes.


def as_if_chosen(ladder, folder):
    """The plan once every row is tuned; the last trial of each was the best."""
    from videokd.experiments.ablation.choices import Choice, Choices
    from videokd.experiments.ablation.plan import Places, Plan

    places = Places(ladder_file(), folder / "chosen.yaml", *(folder,) * 3)
    choices = Choices(places.chosen)
    for name, one in ladder.studies.items():
        for row in one.rows:
            for fold in one.folds or (None,):
                over = (one.trials(row) or [{"train.epochs": 2}])[-1]
                choices._put(name, row, fold or "all", Choice(over, 0, 1.0, 1.0, "x"))
    return Plan(ladder, places, choices)


def test_rows_of_the_ladder_differ_in_what_they_are_about_alone(shipped, tmp_path):
    """The same network and first weights, videos, augmentation, batches and epochs."""
    plan = as_if_chosen(shipped, tmp_path)
    rows = shipped.studies["embedded"].rows
    same = ("seed", "model", "init", "data", "train.epochs", "train.batch_size")
    differs = {
        "mixup": {"data"},
        "all_mixed": {"data"},
        "total_time": {"train.epochs"},
    }

    def said(row):
        settings = plan.job(Key("embedded", "run", row, 3)).settings
        return {path: value_at(settings, path) for path in same}

    control = said("cross_entropy")
    of_tables = [name for name, row in rows.items() if row.group in ("ladder", "losses")]
    assert len(of_tables) > 30
    for row in of_tables:
        mine = said(row)
        assert {path for path in same if mine[path] != control[path]} == differs.get(row, set()), (
            row
        )


def test_every_row_of_the_shipped_ladder_can_be_built(shipped, tmp_path):
    """Its recipe is read, and its losses find their taps between the two networks."""
    from videokd.config import parse_config
    from videokd.distill.objective import Networks, Objective
    from videokd.models.zoo import create_video_model
    from videokd.recipe import RunConfig

    plan = as_if_chosen(shipped, tmp_path)
    networks: dict[str, object] = {}

    def network(config):
        key = config.model.model_dump_json()
        if key not in networks:
            networks[key] = create_video_model(config.model, num_classes=12, seed=0)
        return networks[key]

    seen = 0
    for name, one in shipped.studies.items():
        teacher = plan.run_keys(name, one.teacher)[0]
        taught = network(parse_config(RunConfig, plan.job(teacher).settings, source="teacher"))
        for row in one.rows:
            key = plan.run_keys(name, row)[0]
            config = parse_config(RunConfig, dict(plan.job(key).settings), source=str(key))
            student = network(config)
            other = (
                student
                if "checkpoint" not in (plan.job(key).settings.get("teacher") or {})
                else taught
            )
            if row == "self_training":
                other = student
            Objective(
                config.objective,
                Networks(
                    student_taps=student.tap_shapes,
                    teacher_taps=other.tap_shapes,
                    student_pooled_dim=student.pooled_dim,
                    teacher_pooled_dim=other.pooled_dim,
                    num_classes=12,
                    num_videos=144,  # those with labels: CRD draws its negatives from them
                ),
                seed=0,
            )
            seen += 1
    assert seen == sum(len(one.rows) for one in shipped.studies.values())


def test_the_student_has_a_tenth_of_the_teachers_multiply_adds(shipped):
    from videokd.bench.complexity import count_complexity
    from videokd.config import parse_config
    from videokd.experiments.ablation.choices import Choices
    from videokd.experiments.ablation.plan import Places, Plan
    from videokd.models.zoo import create_video_model
    from videokd.recipe import RunConfig

    plan = Plan(shipped, Places(*(ladder_file(),) * 5), Choices(ladder_file().with_name("nothing")))

    def gmacs(row):
        key = (plan.tune_keys("embedded", row) or plan.run_keys("embedded", row))[0]
        config = parse_config(RunConfig, dict(plan.job(key).settings), source=row)
        model = create_video_model(config.model, num_classes=12, seed=0)
        spec = model.spec
        counted = count_complexity(model, num_frames=spec.num_frames, crop_px=spec.crop_px)
        return counted.gmacs * config.eval.num_views

    assert gmacs("teacher") >= 10 * gmacs("cross_entropy")


def test_enough_videos_are_tested_and_few_have_labels(shipped):
    videos = shipped.studies["embedded"].data.identity
    assert videos["test_videos"] >= 3000
    assert videos["train_videos"] == 2 * 144
    assert len(shipped.studies["embedded"].seeds) >= 5

"""The splits of the ablation: whose labels are seen, and by whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ablation_reference import people, written

from videokd.data.index import read_index, write_index
from videokd.data.indexing import index_synthetic
from videokd.errors import ConfigError
from videokd.experiments.ablation.data import prepare_data
from videokd.experiments.ablation.ladder import PeopleData, load_ladder


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        (["a", "b", "c", "d"], "labelled: 'd' is in no fold"),
        (["a", "b"], "labelled: nobody of fold '3' is"),
    ],
)
def test_every_fold_has_people_with_labels(tmp_path, labelled, message):
    data = people()["data"] | {"labelled": labelled}
    with pytest.raises(ConfigError, match=message):
        load_ladder(written(tmp_path, mine=people(data=data)).ladder)


def test_who_has_no_labels_is_tested_and_neither_trained_nor_chosen_with(tmp_path):
    """The splits of each person, by hand; who is labelled makes other runs."""
    index = index_synthetic(tmp_path / "videos", preset="tiny", seed=0, num_processes=1)
    folds = {"1": ["a", "b"], "2": ["c"], "3": ["d", "e"]}
    records = [replace(index.records[n], group=group) for n, group in enumerate("abcde")]
    write_index(tmp_path / "index.csv", records, index.classes)
    places = {"source": tmp_path / "index.csv", "index": tmp_path / "half.csv"}
    data = PeopleData(**places, folds=folds, labelled=("a", "c", "d"))
    prepare_data(data, on_progress=lambda *_: None)
    splits = {one.group: set(one.split.split(";")) for one in read_index(data.index).records}
    assert splits == {
        "a": {"test1", "held1", "train2", "train3", "train2-3", "train3-2"},
        "b": {"test1", "unlabelled2", "unlabelled3", "unlabelled2-3", "unlabelled3-2"},
        "c": {"test2", "held2", "train1", "train3", "train1-3", "train3-1"},
        "d": {"test3", "held3", "train1", "train2", "train1-2", "train2-1"},
        "e": {"test3", "unlabelled1", "unlabelled2", "unlabelled1-2", "unlabelled2-1"},
    }
    everybody = PeopleData(**places, folds=folds)
    assert everybody.identity == folds
    assert data.identity != everybody.identity

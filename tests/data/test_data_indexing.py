"""One call from what a user has to an index."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from videokd.data.index import Index, read_index
from videokd.data.indexing import IndexRequest, index_synthetic, index_videos, read_annotations
from videokd.data.synthetic import CLASS_NAMES
from videokd.errors import ConfigError, UserError


def test_the_embedded_set_is_indexed_by_its_folders(tiny_index: Index) -> None:
    assert tuple(tiny_index.classes) == CLASS_NAMES
    counts = Counter(record.split for record in tiny_index.records)
    assert counts == {"train": 24, "val": 12, "test": 12}
    for record in tiny_index.records:
        assert record.path.parent.name == tiny_index.classes[record.labels[0]]
        assert record.path.parent.parent.name == record.split
        assert (record.num_frames, record.height, record.width) == (12, 32, 32)
        assert record.reader == "decord"


def test_a_finished_set_is_only_read(tiny_index: Index) -> None:
    out = tiny_index.path.parent
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    again = index_synthetic(out, preset="tiny", seed=0, num_processes=1)
    assert again.records == tiny_index.records
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before


def test_another_seed_does_not_overwrite(tiny_index: Index) -> None:
    with pytest.raises(UserError, match="seed"):
        index_synthetic(tiny_index.path.parent, preset="tiny", seed=1, num_processes=1)


def test_ratio_deals_each_class(tiny_index: Index) -> None:
    request = IndexRequest(source=tiny_index.path.parent / "train", ratio=(1.0, 0.0, 1.0))
    annotations, classes = read_annotations(request)
    assert classes is None
    counts = Counter((a.label_names[0], a.split) for a in annotations)
    assert counts == {(name, split): 1 for name in CLASS_NAMES for split in ("train", "test")}


def test_named_groups_move_and_the_rest_trains(tiny_index: Index) -> None:
    source = tiny_index.path.parent / "train"
    request = IndexRequest(
        source=source,
        group_pattern=r"(\d)$",
        val_groups=("3",),
        test_groups=("4", "5"),
    )
    annotations, _ = read_annotations(request)
    for annotation in annotations:
        expected = {"3": "val", "4": "test", "5": "test"}.get(annotation.group, "train")
        assert annotation.split == expected
    assert [a.path for a in annotations] == sorted(source.rglob("*.mp4"))


def test_groups_need_to_be_known(tiny_index: Index) -> None:
    request = IndexRequest(source=tiny_index.path.parent / "train", val_groups=("3",))
    with pytest.raises(ConfigError, match="the videos have none; give --group-pattern"):
        read_annotations(request)


def test_an_index_can_be_made_from_an_annotation_csv(tiny_index: Index, tmp_path: Path) -> None:
    records = [tiny_index.records[i] for i in tiny_index.select("val")][:3]
    lines = [f"{r.path},{tiny_index.classes[r.labels[0]]},g{n},val" for n, r in enumerate(records)]
    source = tmp_path / "mine.csv"
    source.write_text("path,label,group,split\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "index.csv"
    _, failures = index_videos(
        IndexRequest(source=source), out, num_processes=1, time_limit_seconds=60
    )
    assert failures == []
    assert [(r.path, r.group, r.split) for r in read_index(out).records] == [
        (r.path, f"g{n}", "val") for n, r in enumerate(records)
    ]


def test_a_source_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder, list or CSV"):
        read_annotations(IndexRequest(source=tmp_path / "nothing.csv"))

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videokd.data.annotations import Annotation
from videokd.data.annotations.splits import (
    group_by_pattern,
    split_by_group,
    split_by_ratio,
)
from videokd.errors import UserError


def videos(per_class: dict[str, int], groups: int = 0) -> list[Annotation]:
    return [
        Annotation(Path(f"/v/{name}_{i}.mp4"), (name,), group=f"g{i % groups}" if groups else "")
        for name, count in per_class.items()
        for i in range(count)
    ]


def counts(annotations: list[Annotation]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for a in annotations:
        found.setdefault(a.label_names[0], Counter())[a.split] += 1
    return {name: dict(sorted(by_split.items())) for name, by_split in found.items()}


def test_3_1_1_of_each_class() -> None:
    found = split_by_ratio(videos({"a": 10, "b": 5, "c": 3, "d": 7}), seed=0)
    assert counts(found) == {
        "a": {"test": 2, "train": 6, "val": 2},
        "b": {"test": 1, "train": 3, "val": 1},
        "c": {"test": 1, "train": 1, "val": 1},
        "d": {"test": 1, "train": 4, "val": 2},
    }


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    given_videos = videos({"a": 30, "b": 30})
    split_of = {a.path: a.split for a in split_by_ratio(given_videos, seed=4)}
    back = split_by_ratio(given_videos[::-1], seed=4)
    assert [a.path for a in back] == [a.path for a in given_videos[::-1]]
    assert {a.path: a.split for a in back} == split_of
    assert {a.path: a.split for a in split_by_ratio(given_videos, seed=5)} != split_of


@given(st.integers(3, 12), st.integers(0, 50))
def test_a_group_stays_on_one_side(groups: int, seed: int) -> None:
    found = split_by_ratio(videos({"a": 24, "b": 36}, groups), seed=seed)
    sides: dict[str, set[str]] = {}
    for a in found:
        sides.setdefault(a.group, set()).add(a.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {a.split for a in found} == {"train", "val", "test"}


def test_groups_come_near_the_ratio() -> None:
    found = Counter(a.split for a in split_by_ratio(videos({"a": 40, "b": 40}, 10), seed=1))
    assert found == {"train": 48, "val": 16, "test": 16}


def test_a_part_of_zero_stays_empty() -> None:
    found = split_by_ratio(videos({"a": 9}), (2, 1, 0), seed=0)
    assert counts(found) == {"a": {"train": 6, "val": 3}}


def test_bad_ratios_and_groups() -> None:
    with pytest.raises(UserError, match="parts of at least 0 and one above 0"):
        split_by_ratio(videos({"a": 9}), (0, 0, 0), seed=0)
    with pytest.raises(UserError, match="2 groups cannot fill 3 splits"):
        split_by_ratio(videos({"a": 9}, 2), seed=0)
    mixed = videos({"a": 3}, 3) + videos({"b": 1})
    with pytest.raises(UserError, match=r"b_0\.mp4: it has no group where other videos have one"):
        split_by_ratio(mixed, seed=0)


def test_group_from_the_file_name() -> None:
    found = group_by_pattern([Annotation(Path("/v/a3_s12_t2_color.mp4"), ())], r"a\d+_(s\d+)_t")
    assert found[0].group == "s12"
    with pytest.raises(UserError, match=r"a3_s12_t2_color\.mp4: its name does not match"):
        group_by_pattern(found, r"p(\d+)")
    with pytest.raises(UserError, match="has no part in parentheses"):
        group_by_pattern(found, r"s\d+")
    with pytest.raises(UserError, match="is no regular expression"):
        group_by_pattern(found, r"s(\d+")


def test_by_group() -> None:
    given_videos = videos({"a": 6}, 3)
    found = split_by_group(given_videos, {"train": ["g0", "g2"], "test": ["g1"]})
    assert [a.split for a in found] == ["train", "test", "train"] * 2
    with pytest.raises(UserError, match="group 'g1' is in two splits, train and test"):
        split_by_group(given_videos, {"train": ["g0", "g1"], "test": ["g1", "g2"]})
    with pytest.raises(UserError, match="no video has the group 'g9'; known: g0, g1, g2"):
        split_by_group(given_videos, {"train": ["g9"]})
    with pytest.raises(UserError, match=r"a_2\.mp4: its group 'g2' is in no split"):
        split_by_group(given_videos, {"train": ["g0", "g1"]})

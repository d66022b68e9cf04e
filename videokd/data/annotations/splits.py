"""Which videos train, validate and test: functions that fill the `split` of annotations.

Each returns new annotations in the order of the old ones. The parts by column need no function:
`read_csv` and folders named train, val, test fill the split already. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from videokd.config import did_you_mean
from videokd.data.annotations import Annotation
from videokd.errors import ConfigError, UserError

SPLITS = ("train", "val", "test")


def group_by_pattern(annotations: Sequence[Annotation], pattern: str) -> list[Annotation]:
    r"""Fill the group from the file name: the first parenthesised part of a regular expression.

    `a\d+_(s\d+)_t` takes `s1` out of `a3_s1_t2_color.mp4`. It may match anywhere in the name but
    not in its ending, where `p(\d+)` would find a 4 in each `.mp4`.

    Raises:
        ConfigError: a pattern that is none or has no group.
        UserError: a file name that it does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group pattern {pattern!r} is no regular expression: {error}") from None
    if compiled.groups < 1:
        raise ConfigError(
            rf"group pattern {pattern!r} has no part in parentheses, such as a\d+_(s\d+)_t"
        )
    grouped = []
    for annotation in annotations:
        match = compiled.search(annotation.path.stem)
        if match is None or not match.group(1):
            raise UserError(f"{annotation.path}: its name does not match group pattern {pattern!r}")
        grouped.append(replace(annotation, group=match.group(1)))
    return grouped


def split_by_ratio(
    annotations: Sequence[Annotation],
    ratio: tuple[float, float, float] = (3, 1, 1),
    *,
    seed: int,
) -> list[Annotation]:
    """Train, validation and test in the given proportions, each class by itself.

    The same videos (by path, in any order) and the same seed give the same split. Where videos have
    groups, all videos of a group go to one side: groups are dealt in random order, each to the part
    that, over the group's classes, lacks most. Each part gets at least one video of a class that
    has three or more videos and no groups.

    Raises:
        ConfigError: a ratio without a positive part.
        UserError: fewer groups than parts, some videos with a group and some without.
    """
    if min(ratio) < 0 or sum(ratio) <= 0:
        raise ConfigError(f"ratio {ratio} needs parts of at least 0 and one above 0, such as 3:1:1")
    generator = np.random.default_rng([seed, 0x5B117])
    with_group = [bool(annotation.group) for annotation in annotations]
    if any(with_group) and not all(with_group):
        lonely = annotations[with_group.index(False)]
        raise UserError(f"{lonely.path}: it has no group where other videos have one")
    if all(with_group) and annotations:
        chosen = _deal_groups(annotations, ratio, generator)
    else:
        chosen = _deal_videos(annotations, ratio, generator)
    return [replace(annotation, split=chosen[annotation.path]) for annotation in annotations]


def split_by_group(
    annotations: Sequence[Annotation], assignment: Mapping[str, Sequence[str]]
) -> list[Annotation]:
    """Splits by group: `{"train": ["s1", "s3"], "test": ["s2", "s4"]}`.

    Raises:
        UserError: a group in two splits, a named group without videos, a video of no named group.
    """
    split_of: dict[str, str] = {}
    for split, groups in assignment.items():
        for group in groups:
            if group in split_of:
                raise UserError(f"group {group!r} is in two splits, {split_of[group]} and {split}")
            split_of[group] = split
    there = {annotation.group for annotation in annotations}
    for group in split_of:
        if group not in there:
            raise UserError(f"no video has the group {group!r}; {did_you_mean(group, list(there))}")
    for annotation in annotations:
        if annotation.group not in split_of:
            raise UserError(
                f"{annotation.path}: its group {annotation.group!r} is in no split; name it in one"
            )
    return [replace(annotation, split=split_of[annotation.group]) for annotation in annotations]


def _deal_videos(
    annotations: Sequence[Annotation], ratio: Sequence[float], generator: np.random.Generator
) -> dict[Path, str]:
    by_class: dict[Hashable, list[Path]] = defaultdict(list)
    for annotation in annotations:
        by_class[annotation.label_names].append(annotation.path)
    chosen: dict[Path, str] = {}
    for label in sorted(by_class, key=str):
        paths = sorted(by_class[label])
        order = generator.permutation(len(paths))
        bounds = np.cumsum(_parts(len(paths), ratio))
        for rank, position in enumerate(order):
            chosen[paths[position]] = SPLITS[int(np.searchsorted(bounds, rank, side="right"))]
    return chosen


def _parts(count: int, ratio: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `count`, by largest remainder; none empty where that can be."""
    total = sum(ratio)
    shares = [count * part / total for part in ratio]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(ratio)), key=lambda i: (parts[i] - shares[i], i))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    for i, part in enumerate(ratio):
        fullest = parts.index(max(parts))
        if part > 0 and parts[i] == 0 and parts[fullest] > 1:
            parts[i] += 1
            parts[fullest] -= 1
    return parts


def _deal_groups(
    annotations: Sequence[Annotation], ratio: Sequence[float], generator: np.random.Generator
) -> dict[Path, str]:
    by_group: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        by_group[annotation.group].append(annotation)
    wanted_parts = [i for i, part in enumerate(ratio) if part > 0]
    if len(by_group) < len(wanted_parts):
        raise UserError(
            f"{len(by_group)} groups cannot fill {len(wanted_parts)} splits; a group stays whole"
        )
    totals = Counter(annotation.label_names for annotation in annotations)
    lacks = [
        {label: count * part / sum(ratio) for label, count in totals.items()} for part in ratio
    ]
    names = sorted(by_group)
    order = [names[position] for position in generator.permutation(len(names))]
    chosen: dict[Path, str] = {}
    empty = set(wanted_parts)
    for rank, group in enumerate(order):
        members = by_group[group]
        counts = Counter(member.label_names for member in members)
        # The last groups go to parts that still have none.
        allowed = sorted(empty) if len(order) - rank <= len(empty) else wanted_parts
        part = max(allowed, key=lambda i: (sum(lacks[i][c] * n for c, n in counts.items()), -i))
        empty.discard(part)
        for label, count in counts.items():
            lacks[part][label] -= count
        chosen.update((member.path, SPLITS[part]) for member in members)
    return chosen

"""What a data set is made of, in numbers that stand in its index.

Nothing here reads a file, and nothing imports torch.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from videokd.data.check.sides import class_counts, memberships_of
from videokd.types import ClassNames, VideoRecord


def statistics_of(records: Sequence[VideoRecord], classes: ClassNames) -> dict[str, Any]:
    """The statistics of an index, as plain values.

    `videos`, `labelled`, `frames`; `bytes`, `duration_seconds` with their `total`; these, `fps`,
    `height_px`, `width_px` and `num_frames` with `min`, `median`, `max` and `num_distinct`; `sizes`
    ("height x width" -> videos) and `readers`, most frequent first; `splits` and `classes`
    (split -> class -> videos).
    """
    durations = [record.num_frames / record.fps for record in records]
    sizes = Counter(f"{record.height}x{record.width}" for record in records)
    members = Counter(name for record in records for name in memberships_of(record.split))
    return {
        "videos": len(records),
        "labelled": sum(bool(record.labels) for record in records),
        "bytes": _spread([record.bytes for record in records], with_total=True),
        "duration_seconds": _spread(durations, with_total=True),
        "num_frames": _spread([record.num_frames for record in records], with_total=True),
        "fps": _spread([record.fps for record in records]),
        "height_px": _spread([record.height for record in records]),
        "width_px": _spread([record.width for record in records]),
        "sizes": dict(sizes.most_common()),
        "readers": dict(Counter(record.reader for record in records).most_common()),
        "splits": dict(sorted(members.items())),
        "classes": class_counts(records, classes),
    }


def _spread(values: Sequence[float], *, with_total: bool = False) -> dict[str, float]:
    spread = {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "num_distinct": len(set(values)),
    }
    return spread | ({"total": sum(values)} if with_total else {})

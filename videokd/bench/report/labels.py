"""Where names go in a picture: beside their points, and not over one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_DISTANCES = (1.0, 1.8, 2.8, 4.0, 5.5, 7.5, 10.0)
"""From the point to the nearest edge of its name, in units of `gap`."""
_DIRECTIONS = 16
_NAME_WEIGHT = 100.0
_OUTSIDE_WEIGHT = 100.0
_OBSTACLE_WEIGHT = 4.0
_DISTANCE_WEIGHT = 0.12
"""Names over names and names cut off are never worth a shorter way; touching a line may be."""
_MARGIN_PX = 2.0


class Box(NamedTuple):
    """A rectangle in pixels; x grows to the right, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        """Square pixels."""
        return max(0.0, self.right - self.left) * max(0.0, self.top - self.bottom)

    def overlap(self, other: Box) -> float:
        """Square pixels that both cover."""
        return Box(
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            min(self.right, other.right),
            min(self.top, other.top),
        ).area

    def grown(self, margin: float) -> Box:
        """The same rectangle with `margin` px more on each side."""
        return Box(self.left - margin, self.bottom - margin, self.right + margin, self.top + margin)


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    inside: Box,
    obstacles: Sequence[Box] = (),
    gap: float = 8.0,
) -> list[Box]:
    """A place for each label beside its anchor, free of the others where there is room.

    Each label in turn takes the best of a few places (directions around its anchor, near to far):
    off the labels before it and inside, then off the obstacles, then near.

    Args:
        anchors: (x, y) of each point, px.
        sizes: (width, height) of each label, px.
        inside: where labels should stay.
        obstacles: what they should not cover.
        gap: least distance between a point and its label, px.
    """
    placed: list[Box] = []
    in_the_way, room = _array(obstacles), _array([inside])
    for anchor, size in zip(anchors, sizes, strict=True):
        boxes, distances = zip(*_candidates(anchor, size, gap), strict=True)
        candidates = _array(boxes)
        costs = (
            _NAME_WEIGHT * _covered(candidates, _array([box.grown(_MARGIN_PX) for box in placed]))
            + _OBSTACLE_WEIGHT * _covered(candidates, in_the_way)
            + _OUTSIDE_WEIGHT * (1 - _covered(candidates, room))
            + _DISTANCE_WEIGHT * np.asarray(distances)
        )
        placed.append(boxes[int(costs.argmin())])
    return placed


def _candidates(
    anchor: tuple[float, float], size: tuple[float, float], gap: float
) -> Iterator[tuple[Box, float]]:
    """Boxes around the anchor, right of it first, each with its distance in gaps."""
    width, height = size
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            # 0, +1, -1, +2, ...: right, then a little above and below it, and so around.
            turn = (step + 1) // 2 * (1 if step % 2 else -1)
            angle = 2 * math.pi * turn / _DIRECTIONS
            x = anchor[0] + math.cos(angle) * (distance * gap + width / 2)
            y = anchor[1] + math.sin(angle) * (distance * gap + height / 2)
            yield Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2), distance


def _array(boxes: Sequence[Box]) -> np.ndarray:
    """float64 [boxes, 4]."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The part of each of `boxes` that the others cover; more than 1 where several do."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return np.asarray(shared / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

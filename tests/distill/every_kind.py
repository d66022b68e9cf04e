"""One recipe for each kind of term there is, between the two tiny networks of these tests."""

from __future__ import annotations

from typing import Any

from videokd.types import TapShape

STUDENT_TAPS = {"s1": TapShape(2, 4, 4, 3), "s2": TapShape(3, 3, 2, 2)}
TEACHER_TAPS = {"t1": TapShape(4, 5, 3, 5), "t2": TapShape(5, 6, 2, 2)}
NUM_CLASSES, POOLED_DIM, NUM_VIDEOS = 5, 7, 8

SHALLOW = {"student_tap": "s1", "teacher_tap": "t1"}
DEEP = {"student_tap": "s2", "teacher_tap": "t2"}

EVERY_KIND: dict[str, dict[str, Any]] = {
    "cross_entropy": {"label_smoothing": 0.1},
    "soft_targets": {},
    "hard_targets": {},
    "dkd": {},
    "dist": {},
    "binary_cross_entropy": {},
    "binary_soft_targets": {},
    "hint": SHALLOW,
    "attention_transfer": {"pairs": [SHALLOW, DEEP]},
    "similarity_preserving": SHALLOW,
    "channel_wise": SHALLOW,
    "review": {"pairs": [SHALLOW, DEEP]},
    "pooled_mse": {},
    "temporal_attention": DEEP,
    "temporal_relation": DEEP,
    "temporal_difference": SHALLOW,
    "token_relation": SHALLOW,
    "rkd_distance": {},
    "rkd_angle": {},
    "crd": {"num_negatives": 4, "embedding_dim": 6},
}
"""Kind -> its settings."""


def term_of(kind: str, **changes: Any) -> dict[str, Any]:
    """A recipe's term of that kind."""
    return {"kind": kind, **EVERY_KIND[kind], **changes}

"""What a row of a cache holds, and as which bytes. Nothing here imports torch.

Letters: **K** classes, **k** of them that are kept, **D** pooled features, **C t h w** a tap's
axes, after a teacher's views are put together.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from videokd.config import Config
from videokd.types import TapShape

LOGITS = "logits"
"""float16 [K], or the k largest in falling order."""
CLASS_IDS = "class_ids"
"""int32 [k]: whose logits these are."""
OTHERS_LOGSUMEXP = "others_logsumexp"
"""float32: of the K - k logits that are not kept."""
POOLED = "pooled"
"""float16 [D]."""
ATTENTION = "attention"
"""float32 [t]."""
ATTENTION_SECONDS = "attention_seconds"
"""float32 [t]."""
_FEATURES, _SECONDS = "features:", "seconds:"


class Contents(Config):
    """What is kept of each clip."""

    num_classes: int = Field(ge=1)
    """K."""
    top_k: int | None = Field(None, ge=1)
    """The largest logits that are kept, with the logsumexp of the others; null: all are kept."""
    pooled_dim: int | None = None
    """D; null: not kept."""
    attention_steps: int | None = None
    """t of the temporal module's own weights; null: not kept."""
    taps: dict[str, TapShape] = Field(default_factory=dict)
    """Name -> shape of each tap that is kept whole."""

    @model_validator(mode="after")
    def _top_k_is_of_them(self) -> Contents:
        if self.top_k is not None and self.top_k > self.num_classes:
            raise ValueError(
                f"the {self.top_k} largest of {self.num_classes} logits cannot be kept; take at "
                f"most {self.num_classes}, or whole"
            )
        return self

    @property
    def row_type(self) -> np.dtype[np.void]:
        """One clip: its key, the digest of its draw, and the outputs; little-endian, packed."""
        fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
            ("video_id", "<i8"),
            ("draw", "<u8"),
            ("repeat", "<i4"),
            (LOGITS, "<f2", (self.top_k or self.num_classes,)),
        ]
        if self.top_k is not None:
            fields += [(CLASS_IDS, "<i4", (self.top_k,)), (OTHERS_LOGSUMEXP, "<f4")]
        if self.pooled_dim is not None:
            fields.append((POOLED, "<f2", (self.pooled_dim,)))
        if self.attention_steps is not None:
            fields += [(name, "<f4", (self.attention_steps,)) for name in _ATTENTION]
        for name, shape in self.taps.items():
            fields.append((features_of(name), "<f2", tuple(shape)))
            fields.append((seconds_of(name), "<f4", (shape.t,)))
        return np.dtype(fields)

    @property
    def bytes_per_clip(self) -> int:
        """Of a row."""
        return self.row_type.itemsize

    def described(self) -> str:
        """In words."""
        some = f"the {self.top_k} largest of " if self.top_k is not None else ""
        parts = [f"{some}{self.num_classes} logits"]
        if self.pooled_dim is not None:
            parts.append(f"{self.pooled_dim} pooled features")
        if self.attention_steps is not None:
            parts.append(f"attention over {self.attention_steps} steps")
        parts += [f"tap {n} {'x'.join(map(str, shape))}" for n, shape in self.taps.items()]
        return ", ".join(parts)


_ATTENTION = (ATTENTION, ATTENTION_SECONDS)


def features_of(tap: str) -> str:
    """The field of a tap's features, float16 [C, t, h, w]."""
    return _FEATURES + tap


def seconds_of(tap: str) -> str:
    """The field of the seconds of a tap's steps, float32 [t]."""
    return _SECONDS + tap

"""A stored draw as pixels again, without the recipe that it was drawn by.

Letters: **V** views a video, **T** frames, **S** crop side (px).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from videokd.data.augment.device import augmented_clips
from videokd.data.index import Index
from videokd.data.loading.clips import ReaderChoice, replay
from videokd.teacher_cache.reading import Key, TeacherCache
from videokd.types import ClipBatch, Draw, InputSpec


def replayed(
    cache: TeacherCache,
    index: Index,
    draws: Mapping[Key, Draw],
    key: Key,
    *,
    reader: ReaderChoice = "auto",
) -> dict[str, torch.Tensor]:
    """Rendering -> float32 [V,3,T,S,S] in [0, 1]: what student and teacher saw.

    Crop, flip, colour, erasing and mixing are done as they were; the partner of a mixed clip is
    rendered too.

    Args:
        cache: knows what each network wants to see.
        index: the one that the cache was made from.
        draws: of the epoch, `cache.draws(epoch)`.
        key: which of them.
        reader: of the files.

    Raises:
        UnreadableVideo: a file does not decode any more.
    """
    manifest = cache.manifest
    specs = {"student": manifest.student_input, **manifest.teacher.inputs}
    batch = _batch(index, _with_partner(draws, key), specs, reader)
    return {name: augmented_clips(batch, name, videos=range(1)) for name in specs}


def _with_partner(draws: Mapping[Key, Draw], key: Key) -> list[Draw]:
    """The draw and the one that it is mixed with, if any."""
    draw = draws[key]
    if draw.mix is None:
        return [draw]
    return [draw, draws[draw.mix.partner_id, draw.mix.partner_repeat]]


def _batch(
    index: Index, draws: list[Draw], specs: Mapping[str, InputSpec], reader: ReaderChoice
) -> ClipBatch:
    rendered = [replay(index.records[draw.video_id], draw, specs, reader=reader) for draw in draws]
    return ClipBatch(
        frames={n: torch.stack([torch.from_numpy(f[n]) for f, _ in rendered]) for n in specs},
        frame_seconds={
            n: torch.stack([torch.from_numpy(s[n]) for _, s in rendered]) for n in specs
        },
        targets=torch.zeros(len(draws), len(index.classes)),
        has_label=torch.zeros(len(draws), dtype=torch.bool),
        video_ids=torch.tensor([draw.video_id for draw in draws]),
        draws=draws,
    )

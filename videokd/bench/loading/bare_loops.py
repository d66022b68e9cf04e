"""Bare decoder loops: open the file, get exactly the sampled frames as RGB, and nothing else.

Each is the limit of what a loader can reach with that decoder, single-threaded; with the cut and
the scaling that every training needs, the limit of what a loader can reach that does those.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from videokd.bench.loading.jobs import Frames, Job, Loader, SpeedFile
from videokd.data.augment import render
from videokd.data.readers import to_rgb


def bare_name(reader: str) -> str:
    """Name of the bare loop of one of our readers."""
    return f"bare {reader}"


def cut_name(reader: str) -> str:
    """Name of the same loop that also cuts and scales, as we do."""
    return f"{bare_name(reader)}, cut"


def _bare_decord(jobs: Sequence[Job]) -> Iterator[Frames]:
    import decord

    for job in jobs:
        reader = decord.VideoReader(str(job.file.record.path), ctx=decord.cpu(0), num_threads=1)
        yield reader.get_batch(job.frame_ids.tolist()).asnumpy()


def _bare_torchcodec(jobs: Sequence[Job]) -> Iterator[Frames]:
    from torchcodec.decoders import VideoDecoder

    for job in jobs:
        decoder = VideoDecoder(
            str(job.file.record.path), dimension_order="NHWC", num_ffmpeg_threads=1
        )
        yield decoder.get_frames_at(job.frame_ids.tolist()).data.numpy()


def _bare_pyav(jobs: Sequence[Job]) -> Iterator[Frames]:
    for job in jobs:
        yield np.stack(list(_pyav_frames(job.file, job.frame_ids.tolist())))


def _pyav_frames(file: SpeedFile, ids: list[int]) -> Iterator[Frames]:
    """Jumps where a key frame lies between; where it does was found before, untimed."""
    import av

    with av.open(str(file.record.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        decoded: Iterator[Any] = container.decode(stream)
        position = -1
        for wanted in ids:
            if file.stamps:
                key = file.key_ids[bisect.bisect_right(file.key_ids, wanted) - 1]
                if key > position + 1:
                    container.seek(file.stamps[key], stream=stream)
                    decoded = container.decode(stream)
                frame = next(f for f in decoded if f.pts >= file.stamps[wanted])
            else:
                frame = next(f for i, f in enumerate(decoded, position + 1) if i == wanted)
            position = wanted
            yield to_rgb(frame)


BARE_LOOPS = {
    "decord": Loader(bare_name("decord"), _bare_decord, "open, get_batch, RGB", is_bare=True),
    "pyav": Loader(
        bare_name("pyav"), _bare_pyav, "open, jump to known key frames, decode, RGB", is_bare=True
    ),
    "torchcodec": Loader(
        bare_name("torchcodec"), _bare_torchcodec, "open, get_frames_at, RGB", is_bare=True
    ),
}
"""Loop by the name of our reader that uses the same library."""


def _cut_and_scaled(loop: Loader, jobs: Sequence[Job]) -> Iterator[Frames]:
    for job, frames in zip(jobs, loop.clips(jobs), strict=True):
        yield render(frames, job.crop, crop_px=job.spec.crop_px)


CUT_LOOPS = {
    reader: Loader(
        cut_name(reader), partial(_cut_and_scaled, loop), f"{loop.how}; then cut and scaled"
    )
    for reader, loop in BARE_LOOPS.items()
}
"""The same loops with as much work as ours: what is left between them is what we do around it."""

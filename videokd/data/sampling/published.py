"""Frame ids as other toolkits' published code takes them at test time, index for index.

Letters: n frames in the video, T frames a clip, c clips; D is n minus a clip's length, at least 0.
Each function returns int64 [c, T], every id in [0, n). Where the original computes in floats, so
does this, operation by operation: rounding to even, truncation and float32 steps are part of what
it samples. Frame i is taken to be presented at i / fps, and a video to last n / fps seconds.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from videokd.errors import UserError
from videokd.types import Dense, Seconds, Segment

Ids = NDArray[np.int64]

TARGET_FPS = 30
"""Frames per second in which PySlowFast, PyTorchVideo and X3D count a clip's length."""
TSM_RANGE = 64
"""Frames that a dense clip of TSM reaches over, whatever its T."""
TSN_SEGMENTS = 25
"""Segments that TSN is tested with, whatever it was trained with."""
_TICKS_PER_SECOND = 90_000
"""Clock of MPEG transport streams, a stand-in for the file's own time base."""


def mmaction2_dense(sampling: Dense, num_frames: int, _fps: float, num_clips: int) -> Ids:
    """mmaction2's `SampleFrames(test_mode)`: clip k at k * D / (c - 1), halves to even.

    One clip lies at D // 2. Its length is its span; a video that is too short starts over.
    """
    room = max(num_frames - sampling.span, 0)
    if num_clips == 1:
        starts = np.array([room // 2], dtype=np.int64)
    else:
        starts = _divided_to_even(np.arange(num_clips, dtype=np.int64) * room, num_clips - 1)
    return (starts[:, None] + _strided(sampling)) % num_frames


def mmaction2_x3d(sampling: Dense, num_frames: int, fps: float, num_clips: int) -> Ids:
    """mmaction2's `SampleFrames(test_mode, target_fps=30)`: clip k at k * floor(D / (c - 1)).

    The clip's length is T * stride frames at 30 fps; a video that is too short starts over.
    """
    length = max(1.0, sampling.num_frames * sampling.stride * (fps / TARGET_FPS))
    room = max(num_frames - length, 0)
    starts = np.arange(num_clips) * np.floor(room / float(num_clips - 1))
    offsets = np.linspace(0, length - 1, sampling.num_frames).astype(np.int32)
    return np.mod(starts[:, None] + offsets, num_frames).astype(np.int64)


def mmaction2_uniform(sampling: Segment, num_frames: int, _fps: float, num_clips: int) -> Ids:
    """mmaction2's `UniformSample(test_mode)`: clip k is (k + 1) / (c + 1) into each segment.

    Segments begin at i * (n - 1) / T, rounded, halves to even.
    """
    size = float(num_frames - 1) / sampling.num_segments
    first = np.round(np.arange(sampling.num_segments) * size).astype(np.int64)
    step = size / (num_clips + 1)
    return np.stack([first + int(step * (k + 1)) for k in range(num_clips)])


def segment_centres(sampling: Segment, num_frames: int, _fps: float, _num_clips: int) -> Ids:
    """TSM's test list and mmaction2's `SampleFrames(clip_len=1, test_mode)`: one clip.

    From each n / T frames the middle, rounded down.
    """
    tick = num_frames / float(sampling.num_segments)
    centres = np.arange(sampling.num_segments) * tick + tick / 2.0
    return centres.astype(np.int64)[None, :]


def tsn_centres(_sampling: Segment, num_frames: int, fps: float, num_clips: int) -> Ids:
    """TSN's test: the centres of 25 segments."""
    return segment_centres(Segment(num_segments=TSN_SEGMENTS), num_frames, fps, num_clips)


def segment_centres_twice(sampling: Segment, num_frames: int, fps: float, num_clips: int) -> Ids:
    """`twice_sample` of TSM and mmaction2: the centres of the segments, then their beginnings."""
    centres = segment_centres(sampling, num_frames, fps, num_clips)
    tick = num_frames / float(sampling.num_segments)
    beginnings = (np.arange(sampling.num_segments) * tick).astype(np.int64)
    return np.concatenate([centres, beginnings[None, :]])


def tsm_dense(sampling: Dense, num_frames: int, _fps: float, num_clips: int) -> Ids:
    """TSM's `dense_sample` and mmaction2's `DenseSampleFrames`: clip k at k * D / (c - 1).

    Rounded down; the clip's length is 64 frames and its stride 64 // T; a video that is too short
    starts over.
    """
    last_start = max(0, num_frames - TSM_RANGE)
    starts = np.arange(num_clips, dtype=np.int64) * last_start // (num_clips - 1)
    return (starts[:, None] + _strided(sampling)) % num_frames


def pyslowfast(
    sampling: Dense, num_frames: int, fps: float, num_clips: int, *, use_offset: bool = False
) -> Ids:
    """PySlowFast's `decoder.decode` with its default backend: clip k at k * D / c.

    A clip is T * stride frames at 30 fps long. Of a video of more than T * stride frames, only what
    is presented from the clip's fractional first frame to its last is decoded, and T of these are
    taken; another video is decoded whole. The last frame is repeated where the video ends.
    """
    wanted = sampling.num_frames * sampling.stride
    length = max(1.0, wanted / TARGET_FPS * fps)
    header_frames = fps * (num_frames / fps)  # not always num_frames: a float may be just below
    clips = []
    for k in range(num_clips):
        start = _pyslowfast_start(header_frames - length, k, num_clips, use_offset)
        decoded = range(0)
        if header_frames > wanted:
            decoded = _presented(start, start + length - 1, num_frames, fps)
        if decoded:
            ids = _truncated_steps(0.0, length - 1, sampling.num_frames, len(decoded))
            clips.append(decoded.start + ids)
        else:
            start = _pyslowfast_start(num_frames - length, k, num_clips, use_offset)
            last = start + length - 1
            clips.append(_truncated_steps(start, last, sampling.num_frames, num_frames))
    return np.stack(clips)


def pyslowfast_offset(sampling: Dense, num_frames: int, fps: float, num_clips: int) -> Ids:
    """PySlowFast with `USE_OFFSET_SAMPLING`, as for MViT: clip k at k * floor(D / (c - 1))."""
    return pyslowfast(sampling, num_frames, fps, num_clips, use_offset=True)


def pyslowfast_ssv2(sampling: Segment, num_frames: int, _fps: float, _num_clips: int) -> Ids:
    """PySlowFast's `ssv2.get_seq_frames` in its tests: one clip, the middles of T segments.

    Segments lie between i * (n - 1) / T, rounded, halves to even; the middle is rounded down.
    """
    size = float(num_frames - 1) / sampling.num_segments
    borders = np.round(np.arange(sampling.num_segments + 1) * size).astype(np.int64)
    return ((borders[:-1] + borders[1:]) // 2)[None, :]


def pytorchvideo(
    sampling: Dense | Seconds,
    num_frames: int,
    fps: float,
    num_clips: int,
    *,
    to_the_end: bool = False,
) -> Ids:
    """PyTorchVideo 0.1.5's `ConstantClipsPerVideoSampler`: clip k at k * D / c, all in seconds.

    A dense clip lasts T * stride / 30 s as in its recipes, one in seconds its span. Of the frames
    presented in [start, end), `uniform_temporal_subsample` takes T, truncated. fps is read as the
    nearest fraction with a denominator up to 1001, which 29.97 and its kin are.

    Raises:
        UserError: a clip that is shorter than a frame holds none.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if isinstance(sampling, Dense):
        # A float, as recipes hand it over: for it, a clip may end just behind a frame, not at it.
        length = Fraction(sampling.num_frames * sampling.stride / TARGET_FPS)
    else:
        length = Fraction(sampling.span_seconds)
    last_start = max(num_frames / rate - length, Fraction(0))
    num_steps = num_clips - 1 if to_the_end else num_clips
    clips = []
    for k in range(num_clips):
        start = last_start / num_steps * k
        first = math.ceil(start * rate)
        count = min(num_frames, math.ceil((start + length) * rate)) - first
        if count < 1:
            raise UserError(
                f"a clip of {float(length):.4g} s holds no frame of a video at {fps:.4g} fps; "
                "choose another protocol, or a sampling with longer clips"
            )
        clips.append(first + _truncated_steps(0.0, count - 1, sampling.num_frames, count))
    return np.stack(clips)


def pytorchvideo_main(
    sampling: Dense | Seconds, num_frames: int, fps: float, num_clips: int
) -> Ids:
    """The same on PyTorchVideo's main branch, never released: clip k at k * D / (c - 1)."""
    return pytorchvideo(sampling, num_frames, fps, num_clips, to_the_end=True)


def torchvision(sampling: Seconds, num_frames: int, fps: float, num_clips: int) -> Ids:
    """torchvision's `VideoClips(step=1)` and `UniformClipSampler`: clip k at k * D / (c - 1).

    The video is resampled to T / span_seconds frames per second, frame j being floor(j * fps /
    rate), in float32 unless that step is whole; a clip is T neighbours of those. One clip is the
    first. Positions are those of the first video of a list: the original counts on through all
    videos in float32. A video without T such frames, which it leaves out, repeats its last one.
    """
    import torch

    rate = float(Fraction(sampling.num_frames / sampling.span_seconds).limit_denominator(1001))
    step = fps / rate
    if step.is_integer():
        resampled = torch.arange(0, num_frames, int(step))
    else:
        count = max(1, math.floor(num_frames * rate / fps))
        resampled = (torch.arange(count, dtype=torch.float32) * step).floor().long()
    last = len(resampled) - 1
    starts = torch.linspace(0, max(0, last + 1 - sampling.num_frames), num_clips).floor().long()
    places = (starts[:, None] + torch.arange(sampling.num_frames)).clamp(max=last)
    return np.asarray(resampled[places].clamp(max=num_frames - 1).numpy(), dtype=np.int64)


def _strided(sampling: Dense) -> Ids:
    return np.arange(sampling.num_frames, dtype=np.int64) * sampling.stride


def _pyslowfast_start(room: float, k: int, num_clips: int, use_offset: bool) -> float:
    """First frame of clip k, a fraction unless offset."""
    room = max(room, 0)
    if use_offset:
        return float(k * math.floor(room / (num_clips - 1)))
    return room * k / num_clips


def _presented(first: float, last: float, num_frames: int, fps: float) -> range:
    """Frames presented from one fractional frame number to another, both included."""
    ticks = _TICKS_PER_SECOND / fps
    stamps = np.floor(np.arange(num_frames) * ticks + 0.5)
    start = int(np.searchsorted(stamps, int(first * ticks), side="left"))
    return range(start, int(np.searchsorted(stamps, int(last * ticks), side="right")))


def _truncated_steps(first: float, last: float, count: int, num_frames: int) -> Ids:
    """`count` float32 steps from first to last, kept within [0, num_frames), truncated.

    By torch itself, as in the originals: a step that should be whole may come out just below it.
    """
    import torch

    steps = torch.linspace(first, last, count).clamp(0, num_frames - 1).long()
    return np.asarray(steps.numpy(), dtype=np.int64)


def _divided_to_even(numerators: Ids, denominator: int) -> Ids:
    """Rounded quotients, halves to the even neighbour as numpy rounds; exact, in integers."""
    down, rest = np.divmod(numerators, denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (down % 2 == 1))
    return down + up

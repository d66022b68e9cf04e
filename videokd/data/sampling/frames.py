"""Which frames a clip consists of: pure functions from integers to integers.

Letters: n frames in the video, T frames a clip. Ranges are half-open, `[start, stop)`, each time.
Everything here is integer arithmetic, so no index depends on how a machine rounds floats. Chance
enters only through the generator that the caller passes.

Examples (`x` is a frame of the clip, `.` one that it skips):

    Dense(num_frames=3, stride=3), n = 10      start 0: x..x..x...   span 7, starts in [0, 4)
                                               start 3: ...x..x..x
    Segment(num_segments=3), n = 10            [0,3) [3,6) [6,10), one frame from each
                                               centres: .x..x...x.   -> 1, 4, 8
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from videokd.config import Config
from videokd.errors import ConfigError, UserError
from videokd.types import Dense, PastEnd, Sampling, Seconds, Segment

Ids = NDArray[np.int64]
Start = Literal["random", "uniform", "centre"]


def frame_ids(
    sampling: Sampling,
    *,
    num_frames: int,
    fps: float,
    num_clips: int = 1,
    start: Start,
    generator: np.random.Generator | None = None,
) -> Ids:
    """Frame ids of `num_clips` clips of one video, int64 [num_clips, T], each in [0, num_frames).

    A clip that spans s source frames starts in [0, D + 1) with D = max(0, num_frames - s).

    - `random` draws each start uniformly from that range (Segment: one uniformly random frame in
      each segment, as TSN trains).
    - `uniform` puts clip k of c at k * D / (c - 1), rounded half up: the first clip starts at the
      first frame, the last one ends at the last frame; one clip alone is the centred one. (Segment:
      clip k takes the frame at (2k + 1) / 2c of each segment, so one clip takes the centres.)
    - `centre` is one clip that starts at D // 2 (Segment: the centre of each segment).

    Args:
        sampling: how a clip lies in time.
        num_frames: frames of the video (n).
        fps: frames per second of the video; only `Seconds` looks at it.
        num_clips: clips of this video.
        start: where clips start.
        generator: source of chance, needed by `random` and untouched otherwise.

    Raises:
        UserError: the video is shorter than the clip and `past_end` is `refuse`.
    """
    if num_frames < 1 or num_clips < 1:
        raise ValueError(
            f"num_frames and num_clips must be at least 1, not {num_frames} and {num_clips}"
        )
    if start == "random" and generator is None:
        raise ValueError("random starts need a generator")
    if start == "centre" and num_clips != 1:
        raise ValueError(f"there is one centred clip, not {num_clips}; ask for uniform ones")
    drawn = generator if start == "random" else None
    if isinstance(sampling, Segment):
        return _segment_ids(sampling.num_segments, num_frames, num_clips, drawn)
    offsets, span = clip_offsets(sampling, fps=fps)
    _check_length(sampling, span, num_frames)
    starts = _starts(max(0, num_frames - span), num_clips, drawn)
    return _within(starts[:, None] + offsets[None, :], num_frames, sampling.past_end)


def clip_offsets(sampling: Dense | Seconds, *, fps: float) -> tuple[Ids, int]:
    """Ids of a clip that starts at frame 0, int64 [T], and the source frames that it spans.

    `Dense`: 0, stride, 2 * stride, ...; span = stride * (T - 1) + 1. `Seconds`: the span is
    span_seconds * fps, rounded half up, at least 1; its first and last frame belong to the clip and
    the others are spread evenly between them (T = 1: the middle one).
    """
    if isinstance(sampling, Dense):
        return np.arange(sampling.num_frames, dtype=np.int64) * sampling.stride, sampling.span
    # Decimal reading of the floats: 29.97 * 2 s is 59.94 frames, not the nearest binary fraction.
    exact = Fraction(str(sampling.span_seconds)) * Fraction(str(fps))
    span = max(1, int(exact + Fraction(1, 2)))
    return _evenly(0, span - 1, sampling.num_frames), span


def refuses(sampling: Sampling, *, num_frames: int, fps: float) -> str:
    """Why a video of this length is refused by `past_end: refuse`; empty where it is not."""
    if isinstance(sampling, Segment) or sampling.past_end != "refuse":
        return ""
    span = clip_offsets(sampling, fps=fps)[1]
    if span <= num_frames:
        return ""
    return (
        f"the video has {num_frames} frames and a clip spans {span}; "
        "set past_end to clamp or loop, or a shorter clip"
    )


class SameFrames(Config):
    """The student's frames are a subset of the teacher's."""

    kind: Literal["same_frames"] = "same_frames"


class SameSpan(Config):
    """The teacher's T frames are spread evenly from the student's first frame to its last."""

    kind: Literal["same_span"] = "same_span"


class WholeVideo(Config):
    """The teacher sees uniform clips over the whole video; its outputs are averaged over them."""

    kind: Literal["whole_video"] = "whole_video"
    num_clips: int = Field(default=1, ge=1)
    """Teacher clips a video (V of the teacher's rendering)."""


TeacherView = Annotated[SameFrames | SameSpan | WholeVideo, Field(discriminator="kind")]
"""What the teacher sees of the moment that the student sees."""


def check_view(student: Sampling, teacher: Sampling, view: TeacherView) -> None:
    """Refuse a pair of samplings that `view` cannot bring together.

    `same_frames` is possible for equal samplings, for dense/dense where the student's stride is a
    multiple of the teacher's, its span fits into the teacher's and both treat the video's end
    alike, and for segment/segment where the teacher's segments are a multiple of the student's.

    Raises:
        ConfigError: any other pair.
    """
    if not isinstance(view, SameFrames) or student == teacher:
        return
    match student, teacher:
        case Dense(), Dense():
            fault = _dense_fault(student, teacher)
        case Segment(), Segment():
            uneven = teacher.num_segments % student.num_segments
            fault = (
                f"the teacher's {teacher.num_segments} segments are not a multiple of the "
                f"student's {student.num_segments}"
                if uneven
                else ""
            )
        case _:
            fault = f"a {student.kind} student and a {teacher.kind} teacher share no frames"
    if fault:
        raise ConfigError(
            f"teacher view same_frames: {fault}; change the sampling, or use kind: same_span or "
            "whole_video"
        )


def teacher_frame_ids(
    student_ids: Ids,
    student: Sampling,
    teacher: Sampling,
    view: TeacherView,
    *,
    num_frames: int,
    fps: float,
) -> Ids:
    """What a teacher sees of the video that a student's clip [1, T_s] is of: int64 [V_t, T_t].

    Nothing here is random, and the student's clip does not depend on it, so a control that trains
    without a teacher sees the same clips. Call `check_view` once before.

    With `same_frames` a dense teacher's clip is centred on the student's as far as the video
    allows; a segment teacher takes the student's frame where it lies and the centre of its other
    segments.
    """
    if isinstance(view, WholeVideo):
        return frame_ids(
            teacher, num_frames=num_frames, fps=fps, num_clips=view.num_clips, start="uniform"
        )
    if isinstance(view, SameSpan):
        first, last = int(student_ids.min()), int(student_ids.max())
        return _evenly(first, last, teacher.num_frames)[None, :]
    if student == teacher:
        return student_ids.copy()
    if isinstance(student, Segment) and isinstance(teacher, Segment):
        return _refined(student_ids[0], teacher.num_segments, num_frames)[None, :]
    if isinstance(student, Dense) and isinstance(teacher, Dense):
        return _around(int(student_ids[0, 0]), student, teacher, num_frames)[None, :]
    raise ValueError("same_frames cannot bring these samplings together; call check_view first")


def _starts(last_start: int, num_clips: int, drawn: np.random.Generator | None) -> Ids:
    """First frames of the clips, int64 [num_clips], in [0, last_start + 1)."""
    if drawn is not None:
        return drawn.integers(0, last_start + 1, size=num_clips, dtype=np.int64)
    if num_clips == 1:
        return np.array([last_start // 2], dtype=np.int64)
    return _evenly(0, last_start, num_clips)


def _evenly(first: int, last: int, count: int) -> Ids:
    """`count` integers from `first` to `last`, both included, rounded half up; one: the middle."""
    if count == 1:
        return np.array([(first + last) // 2], dtype=np.int64)
    steps = np.arange(count, dtype=np.int64) * (last - first)
    return first + (2 * steps + count - 1) // (2 * (count - 1))


def _segment_ids(
    num_segments: int, num_frames: int, num_clips: int, drawn: np.random.Generator | None
) -> Ids:
    """One frame from each segment [i * n // T, (i + 1) * n // T), int64 [num_clips, T]."""
    first, size = _segments(num_segments, num_frames)
    if drawn is not None:
        return first + drawn.integers(0, size, size=(num_clips, num_segments), dtype=np.int64)
    clips = np.arange(num_clips, dtype=np.int64)[:, None]
    return first + (2 * clips + 1) * size // (2 * num_clips)


def _segments(num_segments: int, num_frames: int) -> tuple[Ids, Ids]:
    """First frame and size of each segment, int64 [T]; a video with n < T repeats frames."""
    edges = np.arange(num_segments + 1, dtype=np.int64) * num_frames // num_segments
    return edges[:-1], np.maximum(1, np.diff(edges))


def _within(ids: Ids, num_frames: int, past_end: PastEnd) -> Ids:
    """Ids that reach past the last frame, brought into [0, num_frames)."""
    return ids % num_frames if past_end == "loop" else np.minimum(ids, num_frames - 1)


def _check_length(sampling: Dense | Seconds, span: int, num_frames: int) -> None:
    if sampling.past_end == "refuse" and span > num_frames:
        raise UserError(
            f"the video has {num_frames} frames and a clip spans {span}; "
            "set past_end to clamp or loop, or a shorter clip"
        )


def _dense_fault(student: Dense, teacher: Dense) -> str:
    if student.stride % teacher.stride:
        return (
            f"the student's stride {student.stride} is no multiple of the teacher's "
            f"{teacher.stride}"
        )
    if student.span > teacher.span:
        return f"the student spans {student.span} frames, more than the teacher's {teacher.span}"
    if student.past_end != teacher.past_end:
        return f"past_end differs ({student.past_end} and {teacher.past_end})"
    return ""


def _around(student_start: int, student: Dense, teacher: Dense, num_frames: int) -> Ids:
    """The teacher's clip around the student's: their frames stay aligned, int64 [T_t].

    The teacher starts `lead` of its strides before the student. Half of the room is centred; near
    an end of the video the lead is the nearest to that which keeps the clip inside.
    """
    room = (teacher.span - student.span) // teacher.stride
    most = min(room, student_start // teacher.stride)
    past_end = student_start + teacher.span - num_frames
    least = max(0, -(-past_end // teacher.stride))
    lead = min(max(room // 2, least), most)
    ids = student_start - lead * teacher.stride + clip_offsets(teacher, fps=1.0)[0]
    _check_length(teacher, teacher.span, num_frames)
    return _within(ids, num_frames, teacher.past_end)


def _refined(student_ids: Ids, num_segments: int, num_frames: int) -> Ids:
    """The teacher's finer segments: the student's frame where one holds it, else the centre."""
    first, size = _segments(num_segments, num_frames)
    ids = first + size // 2
    per_student = num_segments // len(student_ids)
    for i, wanted in enumerate(student_ids):
        fine = np.arange(i * per_student, (i + 1) * per_student)
        holds = fine[(first[fine] <= wanted) & (wanted < first[fine] + size[fine])]
        ids[holds[0]] = wanted
    return ids

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videokd.data.sampling import (
    SameFrames,
    SameSpan,
    WholeVideo,
    check_view,
    frame_ids,
    refuses,
    teacher_frame_ids,
)
from videokd.errors import ConfigError, UserError
from videokd.types import Dense, Seconds, Segment


def uniform(sampling, n, clips=1, fps=25.0):
    ids = frame_ids(sampling, num_frames=n, fps=fps, num_clips=clips, start="uniform")
    assert ids.dtype == np.int64
    return ids.tolist()


def test_golden_dense() -> None:
    # n 20, span 2 * 3 + 1 = 7, D = 13: the centre 13 // 2; three clips at 0, 6.5 -> 7, 13.
    three = Dense(num_frames=4, stride=2)
    assert uniform(three, 20) == [[6, 8, 10, 12]]
    assert uniform(three, 20, 3) == [[0, 2, 4, 6], [7, 9, 11, 13], [13, 15, 17, 19]]
    # Ten clips of the usual 32x2 in 300 frames: span 63, D = 237, 237 / 9 = 26.33.
    starts = [ids[0] for ids in uniform(Dense(num_frames=32, stride=2), 300, 10)]
    assert starts == [0, 26, 53, 79, 105, 132, 158, 184, 211, 237]


def test_golden_past_end() -> None:
    short = {"num_frames": 4, "stride": 3}
    assert uniform(Dense(**short), 6) == [[0, 3, 5, 5]]
    assert uniform(Dense(**short, past_end="loop"), 6) == [[0, 3, 0, 3]]
    assert uniform(Dense(**short, past_end="loop"), 5) == [[0, 3, 1, 4]]
    refusing = Dense(**short, past_end="refuse")
    assert uniform(refusing, 10) == [[0, 3, 6, 9]]
    with pytest.raises(UserError, match="the video has 9 frames and a clip spans 10; set past_end"):
        uniform(refusing, 9)
    assert refuses(refusing, num_frames=10, fps=1) == ""
    assert "9 frames and a clip spans 10" in refuses(refusing, num_frames=9, fps=1)
    assert refuses(Segment(num_segments=99), num_frames=1, fps=1) == ""


def test_golden_segment() -> None:
    # TSN's int(tick / 2 + tick * i) with tick = n / T.
    assert uniform(Segment(num_segments=8), 40) == [[2, 7, 12, 17, 22, 27, 32, 37]]
    assert uniform(Segment(num_segments=3), 10) == [[1, 4, 8]]
    assert uniform(Segment(num_segments=4), 40, 2) == [[2, 12, 22, 32], [7, 17, 27, 37]]
    assert uniform(Segment(num_segments=4), 2) == [[0, 0, 1, 1]]
    assert uniform(Segment(num_segments=3), 1, 2) == [[0, 0, 0], [0, 0, 0]]


def test_golden_seconds() -> None:
    # 2 s of 30 a second are 60 frames; their first and last belong to the clip; D = 40.
    four = Seconds(num_frames=4, span_seconds=2.0)
    assert uniform(four, 100, fps=30.0) == [[20, 40, 59, 79]]
    assert uniform(four, 100, fps=15.0) == [[35, 45, 54, 64]]
    assert uniform(Seconds(num_frames=1, span_seconds=1.0), 25, fps=25.0) == [[12]]
    assert uniform(four, 30, fps=30.0) == [[0, 20, 29, 29]]
    # 0.1 s of 25 is 2.5 frames, rounded half up although 0.1 is not a binary fraction.
    assert uniform(Seconds(num_frames=2, span_seconds=0.1), 3, fps=25.0) == [[0, 2]]


def test_centre_is_one_uniform_clip() -> None:
    for sampling in (Dense(num_frames=4, stride=2), Segment(num_segments=5)):
        one = frame_ids(sampling, num_frames=33, fps=25.0, start="centre")
        assert one.tolist() == uniform(sampling, 33)
    with pytest.raises(ValueError, match="one centred clip, not 2"):
        frame_ids(sampling, num_frames=33, fps=25.0, start="centre", num_clips=2)


def test_random_needs_a_generator_and_repeats_with_its_seed() -> None:
    sampling = Dense(num_frames=4, stride=2)
    with pytest.raises(ValueError, match="random starts need a generator"):
        frame_ids(sampling, num_frames=33, fps=25.0, start="random")

    def draw(seed: int) -> list:
        generator = np.random.default_rng(seed)
        return frame_ids(
            sampling, num_frames=33, fps=25.0, num_clips=50, start="random", generator=generator
        ).tolist()

    assert draw(1) == draw(1) != draw(2)


def test_random_dense_reaches_every_start_and_segments_every_frame() -> None:
    generator = np.random.default_rng(0)
    dense = Dense(num_frames=4, stride=2)
    options = {"fps": 25.0, "start": "random", "generator": generator, "num_clips": 500}
    starts = frame_ids(dense, num_frames=10, **options)[:, 0]
    assert set(starts.tolist()) == {0, 1, 2, 3}
    ids = frame_ids(Segment(num_segments=3), num_frames=10, **options)
    assert [set(column.tolist()) for column in ids.T] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8, 9}]


dense = st.builds(
    Dense,
    num_frames=st.integers(1, 40),
    stride=st.integers(1, 12),
    past_end=st.sampled_from(["clamp", "loop"]),
)
segment = st.builds(Segment, num_segments=st.integers(1, 40))
seconds = st.builds(
    Seconds,
    num_frames=st.integers(1, 40),
    span_seconds=st.floats(0.01, 20, allow_nan=False),
    past_end=st.sampled_from(["clamp", "loop"]),
)
samplings = st.one_of(dense, segment, seconds)
rates = st.sampled_from([1.0, 12.5, 24000 / 1001, 25.0, 30000 / 1001, 59.94])


@given(samplings, st.integers(1, 400), rates, st.integers(1, 12), st.booleans(), st.integers(0, 9))
def test_ids_are_in_range_and_sorted(sampling, n, fps, clips, chance, seed) -> None:
    ids = frame_ids(
        sampling,
        num_frames=n,
        fps=fps,
        num_clips=clips,
        start="random" if chance else "uniform",
        generator=np.random.default_rng(seed) if chance else None,
    )
    assert ids.shape == (clips, sampling.num_frames)
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < n
    if isinstance(sampling, Segment) or sampling.past_end == "clamp":
        assert (np.diff(ids, axis=1) >= 0).all()


@given(dense, st.integers(1, 400), st.integers(2, 12))
def test_uniform_starts_agree_with_exact_fractions(sampling, n, clips) -> None:
    last = max(0, n - sampling.span)
    expected = [int(Fraction(k * last, clips - 1) + Fraction(1, 2)) for k in range(clips)]
    assert [ids[0] for ids in uniform(sampling, n, clips)] == expected
    assert expected[0] == 0
    assert expected[-1] == last


@given(st.integers(1, 40), st.integers(1, 400), st.integers(1, 5))
def test_each_segment_gives_one_frame_of_its_own(count, n, clips) -> None:
    for ids in uniform(Segment(num_segments=count), n, clips):
        for i, frame in enumerate(ids):
            first, stop = i * n // count, (i + 1) * n // count
            assert first <= frame < max(stop, first + 1)


@given(st.data(), st.integers(1, 200), st.booleans(), st.integers(0, 5))
def test_same_frames_is_a_subset(data, n, chance, seed) -> None:
    if data.draw(st.booleans()):
        past_end = data.draw(st.sampled_from(["clamp", "loop"]))
        stride = data.draw(st.integers(1, 4))
        teacher = Dense(num_frames=data.draw(st.integers(1, 30)), stride=stride, past_end=past_end)
        factor = data.draw(st.integers(1, 3))
        most = (teacher.num_frames - 1) // factor + 1
        frames = data.draw(st.integers(1, most))
        student = Dense(num_frames=frames, stride=stride * factor, past_end=past_end)
    else:
        student = Segment(num_segments=data.draw(st.integers(1, 12)))
        teacher = Segment(num_segments=student.num_segments * data.draw(st.integers(1, 4)))
    check_view(student, teacher, SameFrames())
    s_ids = frame_ids(
        student,
        num_frames=n,
        fps=25.0,
        start="random" if chance else "centre",
        generator=np.random.default_rng(seed) if chance else None,
    )
    t_ids = teacher_frame_ids(s_ids, student, teacher, SameFrames(), num_frames=n, fps=25.0)
    assert s_ids.shape == (1, student.num_frames)
    assert t_ids.shape == (1, teacher.num_frames)
    assert set(s_ids[0].tolist()) <= set(t_ids[0].tolist())
    assert t_ids.min() >= 0
    assert t_ids.max() < n


def pair(student, teacher, view, n, seed=None):
    check_view(student, teacher, view)
    ids = frame_ids(
        student,
        num_frames=n,
        fps=25.0,
        start="centre" if seed is None else "random",
        generator=None if seed is None else np.random.default_rng(seed),
    )
    seen = teacher_frame_ids(ids, student, teacher, view, num_frames=n, fps=25.0)
    return ids.tolist(), seen.tolist()


def test_golden_same_frames() -> None:
    # Spans 7 and 15 in 41 frames: the student at 17 has room for 2 teacher strides of 2 before it.
    student, teacher = Dense(num_frames=4, stride=2), Dense(num_frames=8, stride=2)
    assert pair(student, teacher, SameFrames(), 41) == (
        [[17, 19, 21, 23]],
        [[13, 15, 17, 19, 21, 23, 25, 27]],
    )
    # In 15 frames the teacher fills the video; the student stays where it was drawn.
    assert pair(student, teacher, SameFrames(), 15) == (
        [[4, 6, 8, 10]],
        [[0, 2, 4, 6, 8, 10, 12, 14]],
    )
    # Segments of 5 and of 10 frames; the student's centre 5 lies in the teacher's second half.
    halves = Segment(num_segments=2), Segment(num_segments=4)
    assert pair(*halves, SameFrames(), 20) == ([[5, 15]], [[2, 5, 12, 15]])


def test_golden_same_span_and_whole_video() -> None:
    student, teacher = Dense(num_frames=4, stride=4), Dense(num_frames=5, stride=9)
    assert pair(student, teacher, SameSpan(), 20) == ([[3, 7, 11, 15]], [[3, 6, 9, 12, 15]])
    one = Segment(num_segments=1)
    assert pair(student, one, SameSpan(), 20)[1] == [[9]]
    assert pair(one, Dense(num_frames=4, stride=2), WholeVideo(num_clips=2), 20) == (
        [[10]],
        [[0, 2, 4, 6], [13, 15, 17, 19]],
    )
    drawn = pair(student, teacher, SameSpan(), 60, seed=3)
    assert (drawn[1][0][0], drawn[1][0][-1]) == (drawn[0][0][0], drawn[0][0][-1])


@pytest.mark.parametrize(
    ("student", "teacher", "why"),
    [
        (Dense(num_frames=4, stride=3), Dense(num_frames=32, stride=2), "stride 3 is no multiple"),
        (Dense(num_frames=8, stride=8), Dense(num_frames=8, stride=2), "spans 57 frames, more"),
        (
            Dense(num_frames=2, stride=2),
            Dense(num_frames=8, stride=2, past_end="loop"),
            r"past_end differs \(clamp and loop\)",
        ),
        (Segment(num_segments=8), Segment(num_segments=12), "12 segments are not a multiple"),
        (Segment(num_segments=8), Dense(num_frames=8, stride=2), "a segment student and a dense"),
        (
            Seconds(num_frames=8, span_seconds=1.0),
            Seconds(num_frames=16, span_seconds=1.0),
            "a seconds student",
        ),
    ],
)
def test_views_that_cannot_be_are_refused(student, teacher, why) -> None:
    with pytest.raises(ConfigError, match=why):
        check_view(student, teacher, SameFrames())
    check_view(student, teacher, SameSpan())
    check_view(student, teacher, WholeVideo(num_clips=3))


def test_equal_samplings_share_their_frames() -> None:
    sampling = Seconds(num_frames=8, span_seconds=1.0)
    student, teacher = pair(sampling, sampling, SameFrames(), 60, seed=1)
    assert student == teacher

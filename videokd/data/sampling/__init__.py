"""Which frames a clip consists of: ours (`frames`), and other toolkits' (`protocols`)."""

from videokd.data.sampling.frames import (
    SameFrames,
    SameSpan,
    TeacherView,
    WholeVideo,
    check_view,
    clip_offsets,
    frame_ids,
    refuses,
    teacher_frame_ids,
)

__all__ = [
    "SameFrames",
    "SameSpan",
    "TeacherView",
    "WholeVideo",
    "check_view",
    "clip_offsets",
    "frame_ids",
    "refuses",
    "teacher_frame_ids",
]

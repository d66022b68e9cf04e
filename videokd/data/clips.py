"""One video's clips: what was drawn -> decoded once -> rendered for each consumer.

Letters: B videos in a batch, V views a video, T frames, S crop side (px), K classes. torch is
imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from videokd.data.augment import eval_crops, render
from videokd.data.readers import frame_seconds, open_video
from videokd.data.sampling import frame_ids, refuses
from videokd.data.scan import scan_video
from videokd.errors import ConfigError, UnreadableVideo, UserError
from videokd.types import ClipBatch, Crop, Draw, InputSpec, VideoRecord

if TYPE_CHECKING:
    import torch

STUDENT = "student"
"""Name of the student's rendering, and of the only one in evaluation."""
TEACHER = "teacher"
"""Name of the teacher's rendering."""

ReaderChoice = Literal["auto", "decord", "pyav"]
"""auto: the reader that is exact for the file, as the scan found."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One video of a batch, rendered."""

    draw: Draw
    frames: dict[str, NDArray[np.uint8]]
    seconds: dict[str, NDArray[np.float32]]
    target: NDArray[np.float32]
    has_label: bool


def read_clips(
    path: Path | str,
    spec: InputSpec,
    *,
    num_clips: int,
    num_crops: Literal[1, 3],
    reader: ReaderChoice = "auto",
) -> ClipBatch:
    """All views of one video file that is in no index; B = 1, and targets are [1, 0].

    The file is scanned first, in a process of its own: that counts its frames, finds the reader
    that is exact for it, and survives a file that crashes or hangs a decoder.

    Raises:
        UnreadableVideo: it does not decode.
        UserError: it is too short and `past_end` is `refuse`.
    """
    check_views(num_clips, num_crops)
    found = scan_video(path)
    record = VideoRecord(
        path=found.path,
        labels=(),
        num_frames=found.num_frames,
        fps=found.fps,
        height=found.height,
        width=found.width,
        reader=found.reader,
    )
    if fault := refuses(spec.sampling, num_frames=record.num_frames, fps=record.fps):
        raise UserError(f"{path}: {fault}")
    draw = eval_draw(0, record, spec, num_clips, num_crops)
    frames, seconds = replay(record, draw, {STUDENT: spec}, reader=reader)
    return batch_of([Clip(draw, frames, seconds, np.zeros(0, np.float32), False)], [])


def replay(
    record: VideoRecord,
    draw: Draw,
    specs: Mapping[str, InputSpec],
    *,
    reader: ReaderChoice = "auto",
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """The pixels that a draw stands for: rendering -> uint8 [V,T,S,S,3], and -> seconds [V,T].

    The union of all renderings' frames is decoded once. A draw with one crop uses it for every
    view.

    Raises:
        UnreadableVideo: the file does not decode, or is not as it was when it was scanned.
        UserError: the reader asked for is not exact for it.
    """
    union = np.unique(np.concatenate([draw.frame_ids[name].ravel() for name in specs]))
    chosen = chosen_reader(record, reader)
    with open_video(record.path, chosen, num_frames=record.num_frames) as video:
        decoded = video.read(union)
    if decoded.shape[1:3] != (record.height, record.width):
        raise UnreadableVideo(
            record.path,
            f"its frames are {decoded.shape[1]}x{decoded.shape[2]} px, the index says "
            f"{record.height}x{record.width}; index it again",
        )
    frames, seconds = {}, {}
    for name, spec in specs.items():
        ids = draw.frame_ids[name]
        frames[name] = np.stack(
            [
                render(
                    decoded[np.searchsorted(union, clip)],
                    draw.crops[view if len(draw.crops) > 1 else 0],
                    crop_px=spec.crop_px,
                    resample=spec.resample,
                    flip=draw.flip,
                )
                for view, clip in enumerate(ids)
            ]
        )
        seconds[name] = frame_seconds(ids, fps=record.fps).astype(np.float32)
    return frames, seconds


def chosen_reader(record: VideoRecord, choice: ReaderChoice) -> str:
    """The reader for a file.

    Raises:
        UserError: decord is asked for where it gives other frames than asked for, in silence.
    """
    if choice == "decord" and record.reader != "decord":
        raise UserError(
            f"{record.path}: decord is not exact for this file, {record.reader} is; set reader to "
            "auto"
        )
    return record.reader if choice == "auto" else choice


def clip_tensor(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [B,V,T,S,S,3] -> float32 [B*V,3,T,S,S] in [0, 1], on the same device."""
    import torch

    clips = frames.flatten(0, 1).permute(0, 4, 1, 2, 3)
    return clips.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def eval_draw(
    video_id: int, record: VideoRecord, spec: InputSpec, num_clips: int, num_crops: Literal[1, 3]
) -> Draw:
    """The views of one video, ordered by clip, then by crop."""
    ids = frame_ids(
        spec.sampling,
        num_frames=record.num_frames,
        fps=record.fps,
        num_clips=num_clips,
        start="uniform",
    )
    crops: tuple[Crop, ...] = eval_crops(
        height=record.height,
        width=record.width,
        short_side_px=spec.short_side_px,
        crop_px=spec.crop_px,
        num_crops=num_crops,
    )
    return Draw(video_id, (), {STUDENT: np.repeat(ids, num_crops, axis=0)}, crops * num_clips)


def batch_of(clips: Sequence[Clip], unreadable: list[tuple[int, str]]) -> ClipBatch:
    """Rendered videos as one batch; all have the same renderings, views and sizes."""
    import torch

    names = clips[0].frames.keys()
    return ClipBatch(
        frames={n: torch.from_numpy(np.stack([c.frames[n] for c in clips])) for n in names},
        frame_seconds={n: torch.from_numpy(np.stack([c.seconds[n] for c in clips])) for n in names},
        targets=torch.from_numpy(np.stack([clip.target for clip in clips])),
        has_label=torch.tensor([clip.has_label for clip in clips], dtype=torch.bool),
        video_ids=torch.tensor([clip.draw.video_id for clip in clips], dtype=torch.int64),
        draws=[clip.draw for clip in clips],
        unreadable=unreadable,
    )


def check_views(num_clips: int, num_crops: int) -> None:
    """Raise `ConfigError` for numbers of evaluation views that there are not."""
    if num_clips < 1 or num_crops not in (1, 3):
        raise ConfigError(
            f"num_clips must be at least 1 and num_crops 1 or 3, not {num_clips} and {num_crops}"
        )

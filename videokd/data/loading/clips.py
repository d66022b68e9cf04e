"""One video's clips: what was drawn -> decoded once -> rendered for each consumer.

Letters: B videos in a batch, V views a video, T frames, S crop side (px), K classes. torch is
imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from videokd.data.augment import render, source_rectangle
from videokd.data.loading.kept_frames import KeptFrames
from videokd.data.loading.supervised import Place
from videokd.data.readers import Frames, frame_seconds, open_video
from videokd.data.sampling import refuses
from videokd.data.sampling.protocols import EvalProtocol
from videokd.data.scan import scan_video
from videokd.errors import UnreadableVideo, UserError
from videokd.types import ClipBatch, Crop, Draw, InputSpec, VideoRecord

if TYPE_CHECKING:
    import torch

STUDENT = "student"
"""Name of the student's rendering, and of the only one in evaluation."""
TEACHER = "teacher"
"""Name of the teacher's rendering."""

_WHOLE = Crop(0.0, 0.0, 1.0, 1.0)

ReaderChoice = Literal["auto", "decord", "pyav", "torchcodec"]
"""auto: the fastest reader that is exact for the file, as the scan found. pyav is exact for all."""

Rendered = tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""Rendering -> frames uint8 [V,T,S,S,3], and -> seconds float32 [V,T]."""


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
    views: EvalProtocol,
    reader: ReaderChoice = "auto",
) -> ClipBatch:
    """All views of one video file that is in no index; B = 1, and targets are [1, 0].

    The file is scanned first, in a process of its own: that counts its frames, finds the reader
    that is exact for it, and survives a file that crashes or hangs a decoder.

    Raises:
        UnreadableVideo: it does not decode.
        UserError: it is too short and `past_end` is `refuse`.
        ConfigError: the views are not for this sampling.
    """
    views.check(spec.sampling)
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
    draw = eval_draw(0, record, spec, views)
    frames, seconds = replay(record, draw, {STUDENT: spec}, reader=reader)
    rows = Rows(1, Place().empty)
    rows.add(Clip(draw, frames, seconds, np.zeros(0, np.float32), False))
    return rows.batch([])


def replay(
    record: VideoRecord,
    draw: Draw,
    specs: Mapping[str, InputSpec],
    *,
    reader: ReaderChoice = "auto",
) -> Rendered:
    """The pixels that a draw stands for: rendering -> uint8 [V,T,S,S,3], and -> seconds [V,T].

    A draw with one crop uses it for every view.

    Raises:
        UnreadableVideo: the file does not decode, or is not as it was when it was scanned.
        UserError: the reader asked for is not exact for it.
    """
    return replay_all(record, [draw], specs, reader=reader)[0]


def replay_all(
    record: VideoRecord,
    draws: Sequence[Draw],
    specs: Mapping[str, InputSpec],
    *,
    reader: ReaderChoice = "auto",
    kept: KeptFrames | None = None,
) -> list[Rendered]:
    """`replay` of several draws of one video: the union of all frames is decoded once, or taken
    from memory."""
    ids = np.unique(np.concatenate([draw.frame_ids[n].ravel() for draw in draws for n in specs]))
    decode = partial(_decoded, record, reader)
    decoded, numbers = (decode(ids), ids) if kept is None else kept.read(record, ids, decode)
    return [_rendered(decoded, numbers, draw, specs, record.fps) for draw in draws]


def _decoded(record: VideoRecord, reader: ReaderChoice, ids: NDArray[np.int64]) -> Frames:
    chosen = chosen_reader(record, reader)
    with open_video(record.path, chosen, num_frames=record.num_frames) as video:
        _refuse_other_size(record)
        decoded = video.read(ids)
    if decoded.shape[1:3] != (record.height, record.width):
        raise UnreadableVideo(
            record.path,
            f"its frames are {decoded.shape[1]}x{decoded.shape[2]} px, the index says "
            f"{record.height}x{record.width}; index it again",
        )
    return decoded


def _refuse_other_size(record: VideoRecord) -> None:
    """A file of another size than when it was scanned may be another video.

    `record.bytes` 0 says that it was not scanned; a folder's size would take a look at each frame.
    """
    if record.reader == "frames" or not record.bytes:
        return
    size = record.path.stat().st_size
    if size != record.bytes:
        raise UnreadableVideo(
            record.path, f"it has {size} bytes, the index says {record.bytes}; index it again"
        )


def _rendered(
    decoded: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    draw: Draw,
    specs: Mapping[str, InputSpec],
    fps: float,
) -> Rendered:
    frames, seconds = {}, {}
    for name, spec in specs.items():
        ids = draw.frame_ids[name]
        views = [
            render(
                _cut(decoded, np.searchsorted(numbers, clip), crop),
                _WHOLE,
                crop_px=spec.crop_px,
                resample=spec.resample,
                flip=draw.flip != crop.mirrored,
            )
            for clip, crop in zip(ids, _crop_of_each(draw, len(ids)), strict=True)
        ]
        frames[name] = views[0][None] if len(views) == 1 else np.stack(views)
        seconds[name] = frame_seconds(ids, fps=fps).astype(np.float32)
    return frames, seconds


def _cut(decoded: NDArray[np.uint8], positions: NDArray[np.intp], crop: Crop) -> NDArray[np.uint8]:
    """Some of the frames, cut to the crop; a view where they are evenly spaced.

    Whole frames are never copied: at 720p that would take longer than scaling them down.
    """
    top, left, bottom, right = source_rectangle(
        crop, height=decoded.shape[1], width=decoded.shape[2]
    )
    pixels = decoded[:, top:bottom, left:right]
    first, step = positions[0], positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and (np.diff(positions) == step).all():
        return pixels[first : positions[-1] + 1 : step]
    return pixels[positions]


def _crop_of_each(draw: Draw, num_views: int) -> Sequence[Crop]:
    return draw.crops if len(draw.crops) > 1 else draw.crops * num_views


def chosen_reader(record: VideoRecord, choice: ReaderChoice) -> str:
    """The reader for a video; a folder of frames has one only.

    Raises:
        UserError: decord or torchcodec is asked for where the scan did not choose it: it may give
            other frames than asked for, in silence.
    """
    if choice in ("auto", record.reader) or record.reader == "frames":
        return record.reader
    if choice != "pyav":
        raise UserError(
            f"{record.path}: the scan found {record.reader} to be the reader of this file, not "
            f"{choice}; set reader to auto"
        )
    return choice


def clip_tensor(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [B,V,T,S,S,3] -> float32 [B*V,3,T,S,S] in [0, 1], on the same device."""
    import torch

    clips = frames.flatten(0, 1).permute(0, 4, 1, 2, 3)
    return clips.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def eval_draw(video_id: int, record: VideoRecord, spec: InputSpec, views: EvalProtocol) -> Draw:
    """The views of one video, ordered by clip, then by crop."""
    ids = views.frame_ids(spec.sampling, num_frames=record.num_frames, fps=record.fps)
    crops = views.crops(spec, height=record.height, width=record.width)
    return Draw(video_id, (), {STUDENT: np.repeat(ids, len(crops), axis=0)}, crops * len(ids))


class Rows:
    """The clips of a batch as they come; all have the same renderings, views and sizes.

    Frames go to their place in the batch at once, while the processor's cache still holds them.
    """

    def __init__(
        self, max_rows: int, empty: Callable[[tuple[int, ...]], NDArray[np.uint8]]
    ) -> None:
        """`empty` gives memory for the frames, uint8 of the shape asked for."""
        self._max_rows = max_rows
        self._empty = empty
        self._frames: dict[str, NDArray[np.uint8]] = {}
        self._clips: list[Clip] = []

    def __len__(self) -> int:
        return len(self._clips)

    def add(self, clip: Clip) -> None:
        """The next row."""
        if not self._clips:
            self._frames = {
                name: self._empty((self._max_rows, *frames.shape))
                for name, frames in clip.frames.items()
            }
        for name, frames in clip.frames.items():
            self._frames[name][len(self)] = frames
        self._clips.append(replace(clip, frames={}))

    def batch(self, unreadable: list[tuple[int, str]]) -> ClipBatch:
        """The rows that there are, at least one."""
        import torch

        clips = self._clips
        seconds = {n: np.stack([clip.seconds[n] for clip in clips]) for n in self._frames}
        return ClipBatch(
            frames={n: torch.from_numpy(f[: len(clips)]) for n, f in self._frames.items()},
            frame_seconds={name: torch.from_numpy(rows) for name, rows in seconds.items()},
            targets=torch.from_numpy(np.stack([clip.target for clip in clips])),
            has_label=torch.tensor([clip.has_label for clip in clips], dtype=torch.bool),
            video_ids=torch.tensor([clip.draw.video_id for clip in clips], dtype=torch.int64),
            draws=[clip.draw for clip in clips],
            unreadable=unreadable,
        )

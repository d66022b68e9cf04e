"""One video encoded anew for training speed, verified, and moved into its place.

Native libraries may end the process that calls this; `scan` gives it a process of its own. Nothing
here imports torch.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from videokd.config import Config
from videokd.data.prepare.verifying import frames_to_keep, thumb_of, verify
from videokd.data.readers import Frames, PyAVReader, open_video, to_rgb
from videokd.data.scan.inspection import (
    ScanFailure,
    Scanned,
    ScanResult,
    inspect_video,
    video_digest,
)
from videokd.errors import UnreadableVideo, UserError
from videokd.types import VideoRecord

_CHUNK_BYTES = 64 << 20
"""Frames of a folder are read so many at a time."""

_HEARTBEAT_SECONDS = 2.0
_OUTPUT_FAULTS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}
"""Faults of the place that is written to, which the next video would meet too."""

Codec = Literal["mpeg4", "h264"]


class PrepareConfig(Config):
    """How videos are encoded."""

    short_side_px: int = Field(default=256, ge=16)
    """Shorter side of the frames; smaller videos keep their size."""
    upscale: bool = False
    """Scale smaller videos up to `short_side_px`."""
    codec: Codec = "mpeg4"
    """mpeg4 (MPEG-4 Part 2) decodes fastest; h264 is nearer to the source at the same bytes."""
    gop: int = Field(default=1, ge=1)
    """Frames from one key frame to the next: a frame needs at most so many to be decoded."""
    quality: int = Field(default=5, ge=1, le=51)
    """mpeg4: quantiser, 1 (best) to 31. h264: CRF, 1 (best) to 51."""

    @model_validator(mode="after")
    def _quality_of_codec(self) -> PrepareConfig:
        if self.codec == "mpeg4" and self.quality > 31:
            raise ValueError(f"quality {self.quality} is above 31, the worst of mpeg4")
        return self


@dataclass(frozen=True, slots=True)
class PreparedVideo(ScanResult):
    """A file that was encoded, verified, and is in its place."""

    source: Path = Path()
    source_digest: str = ""
    psnr_db: float = field(default=0.0)
    """Of the worst sampled frame."""


@dataclass(frozen=True, slots=True)
class OutputFault(ScanFailure):
    """The place that is written to is full or refuses; going on makes no sense."""


@dataclass(frozen=True)
class Encoder:
    """What a worker of `scan` does with a source: encode, verify, move into place."""

    jobs: Mapping[Path, tuple[VideoRecord, Path]]
    """Source -> its row of the index, and where its new file goes."""
    config: PrepareConfig
    staging: Path
    """Folder of unfinished files, on the same file system as the targets."""

    def __call__(self, path: Path) -> Iterator[Scanned]:
        """Reports that it is alive while it encodes, and at last what came out."""
        import av

        record, target = self.jobs[path]
        part = self.staging / f"{os.getpid()}{target.suffix}"
        try:
            yield from self._prepare(record, target, part)
        except UnreadableVideo as error:
            yield ScanFailure(path, error.reason)
        except UserError as error:
            yield ScanFailure(path, str(error))
        except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            if getattr(error, "errno", None) in _OUTPUT_FAULTS:
                yield OutputFault(target, reason)
            else:
                yield ScanFailure(path, f"cannot be encoded: {reason}")
        finally:
            part.unlink(missing_ok=True)

    def _prepare(self, record: VideoRecord, target: Path, part: Path) -> Iterator[Scanned]:
        if not record.path.exists():
            raise UnreadableVideo(record.path, "no such file")
        digest = video_digest(record.path)
        if record.digest and digest != record.digest:
            raise UnreadableVideo(record.path, "it changed since it was scanned; index it again")
        height, width = encoded_size(record, self.config)
        kept: dict[int, Frames] = {}
        yield ScanFailure(record.path, "it was not finished")
        for _ in encode(record, part, self.config, size=(height, width), kept=kept):
            yield ScanFailure(record.path, "it was not finished")
        found = _scanned(part)
        yield ScanFailure(record.path, "it was not verified")
        psnr_db = verify(found, record, kept, size=(height, width))
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        values = {entry.name: getattr(found, entry.name) for entry in fields(ScanResult)}
        values["path"] = target
        yield PreparedVideo(
            **values, source=record.path, source_digest=record.digest, psnr_db=psnr_db
        )


def encoded_size(record: VideoRecord, config: PrepareConfig) -> tuple[int, int]:
    """Height and width of the new file, px: even numbers, as 4:2:0 needs."""
    short = min(record.height, record.width)
    wanted = config.short_side_px if config.upscale else min(short, config.short_side_px)

    def scaled(side: int) -> int:
        if side == short:
            return max(2, wanted // 2 * 2)
        return max(2, int(side * wanted / short / 2 + 0.5) * 2)

    return scaled(record.height), scaled(record.width)


def encode(
    record: VideoRecord,
    target: Path,
    config: PrepareConfig,
    *,
    size: tuple[int, int],
    kept: dict[int, Frames],
) -> Iterator[None]:
    """Write all frames of a video, upright and at a constant rate, its mean one.

    Gives back control every two seconds. What `verify` needs is put into `kept`.

    Raises:
        UnreadableVideo: the source has not the frames that the index says.
    """
    import av

    keep = frames_to_keep(record.num_frames)
    # MPEG-4 counts time in at most 65535 parts of a second.
    time_base = max(Fraction(1 / record.fps).limit_denominator(65535), Fraction(1, 65535))
    codec, options = _codec_of(config)
    height, width = size
    last_beat, num_frames = time.monotonic(), 0
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream(codec, rate=1 / time_base, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        for pixels in source_frames(record):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if num_frames in keep:
                kept[num_frames] = thumb_of(_scaled(frame, size, "rgb24").to_ndarray())
            small = _scaled(frame, size, "yuv420p")
            small.pts, small.time_base = num_frames, time_base
            container.mux(stream.encode(small))
            num_frames += 1
            if time.monotonic() - last_beat > _HEARTBEAT_SECONDS:
                yield
                last_beat = time.monotonic()
        container.mux(stream.encode(None))
    if num_frames != record.num_frames:
        raise UnreadableVideo(
            record.path,
            f"it shows {num_frames} frames, the index says {record.num_frames}; index it again",
        )


def source_frames(record: VideoRecord) -> Iterator[Frames]:
    """The frames that the index counted, one after another, uint8 [H,W,3]."""
    if record.reader != "frames":
        with PyAVReader(record.path) as reader:
            for frame in itertools.islice(reader.frames(), record.num_frames):
                yield to_rgb(frame)
        return
    step = max(1, _CHUNK_BYTES // (record.height * record.width * 3))
    with open_video(record.path, record.reader, num_frames=record.num_frames) as folder:
        for start in range(0, record.num_frames, step):
            yield from folder.read(np.arange(start, min(start + step, record.num_frames)))


def _codec_of(config: PrepareConfig) -> tuple[str, dict[str, str]]:
    """FFmpeg's encoder and its options: no B-frames, and as little work for the decoder as can be.

    Encoded twice, a video gives the same bytes: one thread, and x264 without its macroblock tree,
    which reads unwritten memory on small frames.
    """
    quality, gop = str(config.quality), str(config.gop)
    if config.codec == "mpeg4":
        options = {"qmin": quality, "qmax": quality, "mbd": "rd", "b": "1000M"}
        return "mpeg4", options | {"g": gop, "bf": "0"}
    options = {"crf": quality, "preset": "veryfast", "tune": "fastdecode", "threads": "1"}
    return "libx264", options | {"g": gop, "bf": "0", "x264-params": "mbtree=0"}


def _scaled(frame: Any, size: tuple[int, int], pixel_format: str) -> Any:
    """Scaled with a bicubic kernel that is as wide as the reduction asks for."""
    import av

    one_thread = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
    return frame.reformat(
        height=size[0], width=size[1], format=pixel_format, interpolation="BICUBIC", **one_thread
    )


def _scanned(path: Path) -> ScanResult:
    """What the new file is, by the same inspection as any other's.

    PyAV is its reader: decord pays for each jump to a key frame what decoding some twenty such
    frames costs, and here nearly every frame of a clip is a jump.
    """
    found = list(inspect_video(path, readers=("pyav",)))[-1]
    if isinstance(found, ScanFailure):
        raise UnreadableVideo(path, f"encoded anew it does not decode: {found.reason}")
    return found

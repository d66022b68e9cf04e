"""The whole path, from a video file to classes, stage by stage, and the live streams it sustains.

Letters: B clips in a batch, T frames, S crop side (px), K classes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from videokd.bench.complexity import logits_of
from videokd.bench.latency.session import Session
from videokd.bench.latency.settings import DTYPES
from videokd.bench.loading.files import KINDS, cache_folder, made_files
from videokd.bench.parts import LIVE_FPS, WholePath
from videokd.data.augment import render
from videokd.data.loading import clip_tensor
from videokd.data.readers import PyAVReader, open_video, to_rgb
from videokd.data.sampling import refuses
from videokd.data.sampling.protocols import own_views
from videokd.data.scan import ScanResult
from videokd.errors import UserError
from videokd.types import InputSpec

T = TypeVar("T")
Frames = NDArray[np.uint8]

_NUM_PLACES = 5
"""Clips that take turns, from the file's beginning to its end: in a long group of pictures the
last costs more to decode than the first."""
_TOPK = 5
_MAX_LIVE_FRAMES = 250
_NUM_CONVERTED = 25


class Stages(NamedTuple):
    """ms of one clip, and of one frame of a live stream."""

    decode: float
    preprocess: float
    copy: float
    convert: float
    model: float
    post: float
    frame_decode: float
    frame_rgb: float


class Load(NamedTuple):
    """ms of work that one live stream makes per second."""

    host: float
    device: float


@dataclass(frozen=True)
class Source:
    """A video file and the clips of it that are timed."""

    found: ScanResult
    spec: InputSpec
    ids: NDArray[np.int64]
    """Frame ids of the clips [P,T]."""

    @property
    def span_seconds(self) -> float:
        """Of the longest clip, from its first frame to the end of its last."""
        return float((self.ids.max(1) - self.ids.min(1) + 1).max()) / self.found.fps


@dataclass
class _Times:
    ms: dict[str, list[float]] = field(default_factory=dict)

    def of(self, stage: str, work: Callable[[], T], wait: Callable[[], None]) -> T:
        started = time.perf_counter()
        result = work()
        wait()
        self.ms.setdefault(stage, []).append(1000 * (time.perf_counter() - started))
        return result


def video_file(name: str, *, folder: Path | None = None) -> Path:
    """A user's file, or one of the loading benchmark's by name, rendered where it is not there.

    Raises:
        UserError: neither.
    """
    path = Path(name)
    if path.is_file() or name not in KINDS:
        if path.is_file():
            return path
        raise UserError(
            f"--path {name}: no such file; give a video, or one that is rendered: "
            f"{', '.join(KINDS)}"
        )
    place = cache_folder() if folder is None else folder
    return made_files((name,), place / "files")[name]


def source_of(found: ScanResult, spec: InputSpec) -> Source:
    """The clips of a scanned file: five over its length, one where segments cover all of it.

    Raises:
        UserError: it is too short for this network.
    """
    if fault := refuses(spec.sampling, num_frames=found.num_frames, fps=found.fps):
        raise UserError(f"{found.path}: {fault}")
    num_clips = 1 if spec.sampling.kind == "segment" else _NUM_PLACES
    views = own_views(num_clips)
    ids = views.frame_ids(spec.sampling, num_frames=found.num_frames, fps=found.fps)
    return Source(found, spec, ids)


def time_path(session: Session, source: Source, *, num_runs: int, num_warmup: int = 2) -> WholePath:
    """Time every stage of `num_runs` batches of the session's size, one stage after the other.

    Files are in the page cache. Each batch opens its files anew, as loaders do. Everything runs in
    `in_setting` and inference mode, which the caller holds open.
    """
    wait = _waiter(session.device)
    clips = itertools.cycle(source.ids)
    place = _Place(session, source.spec)
    for times in (_Times() for _ in range(num_warmup)):
        _one_batch(times, place, source, [next(clips) for _ in range(place.batch)], wait)
    times = _Times()
    for _ in range(num_runs):
        _one_batch(times, place, source, [next(clips) for _ in range(place.batch)], wait)
    per_clip = {name: statistics.median(ms) / place.batch for name, ms in times.ms.items()}
    frame_decode, frame_rgb = live_frame_ms(source.found.path)
    stages = Stages(**per_clip, frame_decode=frame_decode, frame_rgb=frame_rgb)
    return whole_path(source, stages, on_gpu=session.device.type == "cuda", runs=num_runs)


def whole_path(source: Source, stages: Stages, *, on_gpu: bool, runs: int) -> WholePath:
    """The stages with what follows from them."""
    num_frames = source.ids.shape[1]
    load = live_load(stages, num_frames=num_frames, per_second=1.0, on_gpu=on_gpu)
    span = source.span_seconds
    back_to_back = live_load(stages, num_frames=num_frames, per_second=1 / span, on_gpu=on_gpu)
    return WholePath(
        file=source.found.path.name,
        height=source.found.height,
        width=source.found.width,
        reader=source.found.reader,
        span_seconds=span,
        decode_ms=stages.decode,
        preprocess_ms=stages.preprocess,
        copy_ms=stages.copy,
        convert_ms=stages.convert,
        model_ms=stages.model,
        post_ms=stages.post,
        frame_decode_ms=stages.frame_decode,
        frame_rgb_ms=stages.frame_rgb,
        host_ms_per_second=load.host,
        device_ms_per_second=load.device,
        live_streams=live_streams(load),
        live_streams_back_to_back=live_streams(back_to_back),
        runs=runs,
    )


def live_load(stages: Stages, *, num_frames: int, per_second: float, on_gpu: bool) -> Load:
    """What one 25 fps stream costs per second with so many predictions per second.

    All of its frames are decoded, since each needs those before it; the T of a clip become RGB and
    are preprocessed. On a CPU the network's work falls to the host as well.
    """
    host = LIVE_FPS * stages.frame_decode
    host += per_second * (num_frames * stages.frame_rgb + stages.preprocess)
    device = per_second * (stages.copy + stages.convert + stages.model + stages.post)
    return Load(host, device) if on_gpu else Load(host + device, 0.0)


def live_streams(load: Load) -> float:
    """Streams of this load in one process: as many as its slower side serves in a second.

    Host and GPU work at the same time, on different streams' clips; on a CPU one thing follows the
    other.
    """
    return 1000 / max(load)


def live_frame_ms(path: Path) -> tuple[float, float]:
    """ms to decode one frame of a file in order, and to turn one into RGB; on one thread.

    From the first frame that comes out to the last of 250, so that neither opening nor the
    decoder's delay is in it.
    """
    with PyAVReader(path) as reader:
        frames = reader.frames()
        kept = [next(frames)]
        started, count = time.perf_counter(), 0
        for frame in itertools.islice(frames, _MAX_LIVE_FRAMES - 1):
            count += 1
            if count % (_MAX_LIVE_FRAMES // _NUM_CONVERTED) == 0:
                kept.append(frame)
        decode_ms = 1000 * (time.perf_counter() - started) / max(1, count)
        times = _Times()
        for frame in kept:
            times.of("rgb", lambda frame=frame: to_rgb(frame), _nothing)  # type: ignore[misc]
    return decode_ms, statistics.median(times.ms["rgb"])


class _Place:
    """Where the clips of a batch go on their way, made once."""

    def __init__(self, session: Session, spec: InputSpec) -> None:
        self.session, self.batch = session, session.setting.batch
        self._dtype = DTYPES[session.setting.dtype]
        shape = (self.batch, 1, session.num_frames, spec.crop_px, spec.crop_px, 3)
        self._on_gpu = session.device.type == "cuda"
        self._frames = torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._to_channels_last = session.setting.memory_format == "channels_last"

    def copied(self, rendered: Sequence[Frames]) -> torch.Tensor:
        """uint8 [B,1,T,S,S,3] on the device."""
        for row, frames in zip(self._frames, rendered, strict=True):
            row[0].copy_(torch.from_numpy(frames))
        if self._on_gpu:
            return self._frames.to(self.session.device, non_blocking=True)
        return self._frames

    def converted(self, frames: torch.Tensor) -> torch.Tensor:
        """The network's clips [B,3,T,S,S] in [0, 1]."""
        if self._to_channels_last:  # frames lie so: no transposition
            return frames.flatten(0, 1).to(self._dtype).div_(255).permute(0, 4, 1, 2, 3)
        return clip_tensor(frames).to(self._dtype)


def _one_batch(
    times: _Times,
    place: _Place,
    source: Source,
    ids: Sequence[NDArray[np.int64]],
    wait: Callable[[], None],
) -> list[list[int]]:
    """The best classes of each clip."""
    decoded = times.of("decode", lambda: [_decoded(source, one) for one in ids], wait)
    rendered = times.of("preprocess", lambda: [_rendered(source, one) for one in decoded], wait)
    frames = times.of("copy", lambda: place.copied(rendered), wait)
    clips = times.of("convert", lambda: place.converted(frames), wait)
    logits = times.of("model", lambda: logits_of(place.session.run(clips)), wait)
    return times.of("post", lambda: _best(logits), wait)


def _decoded(source: Source, ids: NDArray[np.int64]) -> Frames:
    found = source.found
    with open_video(found.path, found.reader, num_frames=found.num_frames) as video:
        return video.read(ids)


def _rendered(source: Source, frames: Frames) -> Frames:
    found, spec = source.found, source.spec
    crop = own_views().crops(spec, height=found.height, width=found.width)[0]
    return render(frames, crop, crop_px=spec.crop_px, resample=spec.resample)


def _best(logits: torch.Tensor) -> list[list[int]]:
    """Softmax, mean over the one view of each clip, the five best classes."""
    probabilities = logits.float().softmax(-1).unflatten(0, (-1, 1)).mean(1)
    best = probabilities.topk(min(_TOPK, logits.shape[-1])).indices.tolist()
    return [list(row) for row in best]


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return _nothing


def _nothing() -> None:
    pass

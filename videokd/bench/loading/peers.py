"""The loaders that are timed side by side: ours and other projects' data sets.

Each takes the same clips (`Job`) and yields uint8 [T, S, S, 3]: cut and scaled. `loaders` adds the
bare loops.

Letters: T frames a clip, H W pixels of the source, S crop side (px), C channels.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.bench.loading.bare_loops import BARE_LOOPS, CUT_LOOPS
from videokd.bench.loading.jobs import Frames, Job, Loader
from videokd.data.augment import source_rectangle
from videokd.data.loading.clips import STUDENT, replay
from videokd.types import Dense

OURS = "videokd"
PYTORCHVIDEO = "pytorchvideo"
"""With its default decoder, PyAV."""
TORCHVISION = "torchvision"
_PYTORCHVIDEO_BYTES_A_PIXEL = 20
"""1.5 as decoded, 3 as RGB, 3 stacked, 12 as floats."""


def loaders(*, with_peers: bool) -> tuple[Loader, ...]:
    """Ours and the bare loops; with peers also other projects' data sets."""
    return (_OURS, *(_PEERS if with_peers else ()), *BARE_LOOPS.values(), *CUT_LOOPS.values())


def _our_clips(jobs: Sequence[Job]) -> Iterator[Frames]:
    for job in jobs:
        frames, _ = replay(job.file.record, job.draw, {STUDENT: job.spec})
        yield frames[STUDENT][0]


def _pytorchvideo_clips(decoder: str) -> Callable[[Sequence[Job]], Iterator[Frames]]:
    def clips(jobs: Sequence[Job]) -> Iterator[Frames]:
        _refuse_too_large(jobs)
        for sample in pytorchvideo_dataset(jobs, decoder):
            yield sample["video"].numpy()

    return _with_decords_bridge(clips) if decoder == "decord" else clips


def pytorchvideo_dataset(jobs: Sequence[Job], decoder: str = "pyav") -> Any:
    """PyTorchVideo's `LabeledVideoDataset` over the jobs' clips, in their order.

    Its `RandomClipSampler` is told where the clip starts instead of drawing it. A dense clip lasts
    num_frames * stride / fps, as its recipes have it; there is no segment sampling, so such a clip
    is the whole video.
    """
    from pytorchvideo.data import LabeledVideoDataset, RandomClipSampler
    from torch.utils.data import SequentialSampler

    class GivenStart(RandomClipSampler):
        def __call__(self, _last: Any, _duration: Any, annotation: dict[str, Any]) -> Any:
            # super() draws a start within a video that is exactly as long as the clip: 0.
            drawn = super().__call__(0, self._clip_duration, annotation)
            start = annotation["start_seconds"]
            return drawn._replace(
                clip_start_sec=start, clip_end_sec=start + annotation["clip_seconds"]
            )

    rows = [
        (str(job.file.record.path), {"label": 0, "start_seconds": start, "clip_seconds": seconds})
        for job in jobs
        for start, seconds in [_pytorchvideo_window(job)]
    ]

    def picked_and_scaled(sample: dict[str, Any]) -> dict[str, Any]:
        job = jobs[sample["video_index"]]
        frames = sample["video"]  # float32 [C, T', H, W] in [0, 255]
        clip = cut_and_scale(frames[:, _picked(job)], job)
        return sample | {"video": torch.from_numpy(clip)}

    return LabeledVideoDataset(
        rows,
        GivenStart(1),
        video_sampler=SequentialSampler,
        transform=picked_and_scaled,
        decode_audio=False,
        decoder=decoder,
    )


def pytorchvideo_batches(
    jobs: Sequence[Job], *, batch_size: int, num_workers: int
) -> Iterator[Tensor]:
    """Batches uint8 [B, T, S, S, 3] from torch's DataLoader; dropping them ends the workers."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        pytorchvideo_dataset(jobs),
        batch_size=batch_size,
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,  # as ours
        worker_init_fn=_deaf_to_ctrl_c,
        collate_fn=lambda samples: torch.stack([sample["video"] for sample in samples]),
        generator=torch.Generator(),  # without one, the global generator moves on
    )
    yield from loader


def _deaf_to_ctrl_c(_worker_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us


def _refuse_too_large(jobs: Sequence[Job]) -> None:
    """It holds all frames of a clip at once, decoded, as RGB, stacked, and as floats.

    Raises:
        MemoryError: that takes more than half of the memory that is free.
    """
    record, sampling = jobs[0].file.record, jobs[0].spec.sampling
    count = record.num_frames
    if isinstance(sampling, Dense):
        count = min(count, sampling.num_frames * sampling.stride)
    needed = count * record.height * record.width * _PYTORCHVIDEO_BYTES_A_PIXEL
    free = free_bytes()
    if free is not None and needed > free / 2:
        raise MemoryError(
            f"a clip needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        )


def free_bytes() -> int | None:
    """Memory that programs can still have; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else int(kib) * 1024


def _pytorchvideo_window(job: Job) -> tuple[Fraction, Fraction]:
    """Start and length in seconds; half a frame early, so that no rounding loses the first."""
    record = job.file.record
    frame_seconds = 1 / Fraction(record.fps).limit_denominator(1001)
    sampling = job.spec.sampling
    if not isinstance(sampling, Dense):
        return Fraction(0), (record.num_frames + 1) * frame_seconds
    start = max(Fraction(0), (int(job.frame_ids[0]) - Fraction(1, 2)) * frame_seconds)
    return start, sampling.num_frames * sampling.stride * frame_seconds


def _picked(job: Job) -> Tensor:
    """Positions of the job's frames within its PyTorchVideo clip, int64 [T]."""
    ids = torch.from_numpy(job.frame_ids)
    return ids - ids[0] if isinstance(job.spec.sampling, Dense) else ids


def _with_decords_bridge(
    clips: Callable[[Sequence[Job]], Iterator[Frames]],
) -> Callable[[Sequence[Job]], Iterator[Frames]]:
    """PyTorchVideo switches decord to torch tensors when it is imported, for everybody."""

    def bridged(jobs: Sequence[Job]) -> Iterator[Frames]:
        import decord

        decord.bridge.set_bridge("torch")
        try:
            yield from clips(jobs)
        finally:
            decord.bridge.set_bridge("native")

    return bridged


def _torchvision_clips(jobs: Sequence[Job]) -> Iterator[Frames]:
    """`VideoClips`, which all of torchvision's video data sets load through."""
    from torchvision.datasets.video_utils import VideoClips  # type: ignore[import-untyped]

    for job in jobs:
        record, sampling = job.file.record, job.spec.sampling
        is_dense = isinstance(sampling, Dense)
        length = sampling.span if isinstance(sampling, Dense) else record.num_frames
        clips = VideoClips(
            [str(record.path)],
            clip_length_in_frames=length,
            frames_between_clips=1,
            _precomputed_metadata={
                "video_paths": [str(record.path)],
                "video_pts": [torch.arange(record.num_frames)],
                "video_fps": [record.fps],
            },
        )
        frames = clips.get_clip(int(job.frame_ids[0]) if is_dense else 0)[0]  # uint8 [T', H, W, C]
        yield cut_and_scale(frames[_picked(job)].permute(3, 0, 1, 2), job)


def cut_and_scale(frames: Tensor, job: Job) -> Frames:
    """What a user of another data set does next: [C, T, H, W] of any dtype -> uint8 [T, S, S, 3].

    Only the sampled frames, only the rectangle, and with antialiasing, as ours. torchvision's
    functions would do the same through the same kernel.
    """
    record, size = job.file.record, job.spec.crop_px
    top, left, bottom, right = source_rectangle(job.crop, height=record.height, width=record.width)
    pixels = frames[:, :, top:bottom, left:right].transpose(0, 1)
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(
            pixels.contiguous(memory_format=torch.channels_last),
            size=(size, size),
            mode=job.spec.resample,
            antialias=True,
        )
    if pixels.dtype != torch.uint8:
        pixels = pixels.round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


_OURS = Loader(
    OURS, _our_clips, "the reader that the scan chose, then cut and scaled to uint8 [T,S,S,3]"
)
_PEERS = (
    Loader(
        PYTORCHVIDEO,
        _pytorchvideo_clips("pyav"),
        "LabeledVideoDataset, RandomClipSampler (start given), decoder pyav, no audio; then the "
        "sampled frames cut and scaled",
    ),
    Loader(
        f"{PYTORCHVIDEO} (decord)", _pytorchvideo_clips("decord"), "the same with decoder decord"
    ),
    Loader(
        TORCHVISION,
        _torchvision_clips,
        "VideoClips, clips of the whole span, known time stamps; then the sampled frames cut and "
        "scaled",
    ),
)

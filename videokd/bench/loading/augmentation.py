"""What augmentation on the device costs, beside a training step on the same clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from videokd.bench.latency import usable_device
from videokd.bench.loading.report import stamp
from videokd.bench.loading.rows import SpeedRow, speed, spread
from videokd.data.augment import (
    AugmentConfig,
    ColourConfig,
    EraseConfig,
    MixConfig,
    RandAugmentConfig,
    with_appearance,
    with_partners,
)
from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.loading.clips import STUDENT
from videokd.models.students import TimmVideoConfig
from videokd.models.temporal import ShiftConfig
from videokd.models.zoo import create_video_model
from videokd.types import ClipBatch, Crop, Dense, Draw, InputSpec

Progress = Callable[[int, int, str], None]

BATCH, NUM_FRAMES, NUM_CLASSES = 8, 8, 400
STEP = "training step of TSM-ResNet-18"
"""Forward, cross entropy, backward; no optimizer."""
KINDS: dict[str, AugmentConfig] = {
    "to float": AugmentConfig(),
    "colour": AugmentConfig(
        colour=ColourConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    ),
    "RandAugment": AugmentConfig(rand_augment=RandAugmentConfig()),
    "erasing": AugmentConfig(erase=EraseConfig(probability=1.0)),
    "mixup": AugmentConfig(mix=MixConfig(mixup_alpha=0.8)),
    "cutmix": AugmentConfig(mix=MixConfig(cutmix_alpha=1.0)),
}
"""Each holds the turning of uint8 into float that comes first in any case. What has a probability
is done to every clip here."""


def augment_speed(
    *,
    device: str,
    rounds: int,
    crop_px: int,
    on_progress: Progress | None = None,
) -> list[SpeedRow]:
    """Rows for each augmentation and for the training step, timed in turn in every round.

    Args:
        device: `cpu`, with all of torch's threads, `cuda`, or `auto`: a GPU where there is one.
        rounds: medians are over these.
        crop_px: S.
        on_progress: called as `(done, total, note)`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = usable_device(device)
    subjects = _subjects(where, crop_px)
    names = list(subjects)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in subjects.values():  # warm
        run()
    for number in range(rounds):
        order = np.random.default_rng(number).permutation(len(names)).tolist()
        for done, name in enumerate(names[position] for position in order):
            seconds[name].append(_seconds(subjects[name], where))
            if on_progress is not None:
                on_progress(number * len(names) + done + 1, rounds * len(names), name)
    return [_row(name, seconds, where, crop_px) for name in names]


def _row(
    name: str, seconds: dict[str, list[float]], device: torch.device, crop_px: int
) -> SpeedRow:
    found = speed([value / BATCH for value in seconds[name]])
    part = spread([100 * a / b for a, b in zip(seconds[name], seconds[STEP], strict=True)])
    return SpeedRow(
        files=f"{BATCH} clips in memory, {device.type}",
        sampling=f"{NUM_FRAMES} frames of {crop_px} px",
        loader=name if name == STEP else f"augment: {name}",
        workers=0,
        clips_per_s=found.median,
        clips_per_s_interval=(found.low, found.high),
        part_of_step_pct=part.median,
        rounds=len(seconds[name]),
        clips_a_round=BATCH,
        **stamp(),
    )


def _subjects(device: torch.device, crop_px: int) -> dict[str, Callable[[], object]]:
    batch = _batch(crop_px).to(device)
    found: dict[str, Callable[[], object]] = {}
    for name, config in KINDS.items():
        drawn = replace(batch, draws=_drawn(batch.draws, config, crop_px))
        found[name] = partial(_augmented, drawn)
    found[STEP] = _training_step(batch, crop_px, device)
    return found


def _augmented(batch: ClipBatch) -> object:
    return augmented_clips(batch, STUDENT), mixed_targets(batch)


def _batch(crop_px: int) -> ClipBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, 1, NUM_FRAMES, crop_px, crop_px, 3)
    ids = np.arange(NUM_FRAMES)[None]
    return ClipBatch(
        frames={STUDENT: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)},
        frame_seconds={STUDENT: torch.zeros(shape[:3])},
        targets=torch.eye(NUM_CLASSES)[:BATCH],
        has_label=torch.ones(BATCH, dtype=torch.bool),
        video_ids=torch.arange(BATCH),
        draws=[Draw(i, (0, 0, i, 0), {STUDENT: ids}, (Crop(0, 0, 1, 1),)) for i in range(BATCH)],
    )


def _drawn(draws: Sequence[Draw], config: AugmentConfig, crop_px: int) -> list[Draw]:
    """As the loader draws them."""
    looks = [with_appearance(draw, config) for draw in draws]
    return with_partners(looks, [draw.video_id for draw in draws], config.mix, crop_px=crop_px)


def _training_step(batch: ClipBatch, crop_px: int, device: torch.device) -> Callable[[], object]:
    spec = InputSpec(
        sampling=Dense(num_frames=NUM_FRAMES, stride=8), short_side_px=crop_px, crop_px=crop_px
    )
    config = TimmVideoConfig(input=spec, backbone="resnet18", temporal=ShiftConfig())
    network = create_video_model(config, num_classes=NUM_CLASSES, taps=(), seed=0).to(device)
    clips = augmented_clips(batch, STUDENT)

    def step() -> object:
        network.zero_grad(set_to_none=True)
        logits = network(clips).logits
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        return logits

    return step


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

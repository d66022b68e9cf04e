"""How the embedded data set moves: its classes, its dials, and the path of every object.

The world is a torus: what leaves on one side enters on the other, and an object that has grown to
the largest radius goes on from the smallest. Position, log-radius and angle are therefore uniform
at every frame of every class, and only the order of frames tells classes apart.

x grows to the right, y downwards; a positive angle turns clockwise as the viewer sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from videokd.config import Config, parse_config, parse_overrides

Split = Literal["train", "val", "test"]
Range = tuple[float, float]
FloatArray = NDArray[np.float32]

CLASS_NAMES: Final = (
    "translate_left",
    "translate_right",
    "translate_up",
    "translate_down",
    "rotate_cw",
    "rotate_ccw",
    "grow",
    "shrink",
    "orbit_cw",
    "orbit_ccw",
    "shake_horizontal",
    "shake_vertical",
)
"""Index -> name; also the folder names."""

FLIP_SWAPS: Final = (
    ("translate_left", "translate_right"),
    ("rotate_cw", "rotate_ccw"),
    ("orbit_cw", "orbit_ccw"),
)
"""Pairs of classes that become each other in a horizontal mirror; all other classes keep their
label."""

SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")


def reach_px(radius_px: float) -> int:
    """How far from its centre's pixel an object of this radius can change pixels."""
    return math.ceil(radius_px * 1.05) + 1


class SyntheticConfig(Config):
    """How many videos, how large, and how hard. A pair is a range `(low, high)`, drawn uniformly
    for each video."""

    seed: int = Field(0, ge=0)
    """Video number n of a split depends on (seed, split, n) and on the fields below, on nothing
    else."""

    train_videos: int = Field(1440, ge=0)
    """Number of training videos, a multiple of the 12 classes (as the next two)."""

    val_videos: int = Field(240, ge=0)
    test_videos: int = Field(600, ge=0)

    scenes_in_all_classes: bool = False
    """Each scene (object, background, distractors, camera, noise, and where all of it starts) is
    shown twelve times, once with the motion of each class. Then nothing but motion tells the
    classes apart in training either, where a network could otherwise learn its videos by heart."""

    size_px: int = Field(64, ge=16, le=1024, multiple_of=2)
    """Height and width. Even, since yuv420p halves the colour planes."""

    num_frames: int = Field(24, ge=2, le=10_000)
    """Frames a video; longer than a clip, so that sampling one is real work."""

    fps: int = Field(12, ge=1, le=240)

    object_radius_px: Range = (7.0, 14.0)
    """The object's radius; for growing and shrinking the whole range is run through, then it
    starts again."""

    speed_px_per_frame: Range = (1.0, 2.5)
    """Speed of the four translations."""

    turn_deg_per_frame: Range = (9.0, 20.0)
    """Speed of rotating in place, and of orbiting."""

    growth_pct_per_frame: Range = (3.0, 6.0)
    """Change of the radius from frame to frame."""

    orbit_radius_px: Range = (4.0, 8.0)

    shake_amplitude_px: Range = (3.0, 6.0)
    """Half of the way from turning point to turning point."""

    shake_period_frames: Range = (6.0, 12.0)

    num_distractors: int = Field(3, ge=0, le=64)
    """Objects that stand still or drift, whatever the class."""

    distractor_radius_px: Range = (3.0, 7.0)

    distractor_speed_px_per_frame: float = Field(0.4, ge=0)
    """Largest drift of a distractor. Below the slowest translation, or the label becomes a
    guess."""

    camera_drift_px: float = Field(4.0, ge=0)
    """How far the camera moves, at most, over the whole video, taking everything with it."""

    object_opacity_pct: float = Field(100.0, gt=0, le=100)
    """How much of the background the object covers."""

    background_contrast_pct: float = Field(100.0, ge=0, le=100)
    """How lively the background is; at 100 the object is made of the same stuff, and shows by its
    motion only."""

    noise_std: float = Field(8.0, ge=0, le=128)
    """Standard deviation of the grey noise of each pixel of each frame, on the scale 0 to 255."""

    gop: int = Field(12, ge=1)
    """Frames from one key frame to the next."""

    crf: int = Field(18, ge=0, le=51)
    """x264's constant rate factor: lower is better; coarse ones leave traces of the motion inside
    single frames."""

    @field_validator("train_videos", "val_videos", "test_videos")
    @classmethod
    def _is_balanced(cls, value: int) -> int:
        if value % len(CLASS_NAMES):
            below = value - value % len(CLASS_NAMES)
            raise ValueError(
                f"{value} videos are no multiple of the {len(CLASS_NAMES)} classes;"
                f" take {below} or {below + len(CLASS_NAMES)}"
            )
        return value

    @field_validator(
        "object_radius_px",
        "speed_px_per_frame",
        "turn_deg_per_frame",
        "growth_pct_per_frame",
        "orbit_radius_px",
        "shake_amplitude_px",
        "shake_period_frames",
        "distractor_radius_px",
    )
    @classmethod
    def _is_range(cls, value: Range) -> Range:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"the range {value} needs 0 < low <= high")
        return value

    @model_validator(mode="after")
    def _objects_fit(self) -> SyntheticConfig:
        # A larger window would cover pixels twice on the torus.
        largest_px = max(self.object_radius_px[1], self.distractor_radius_px[1])
        if 2 * reach_px(largest_px) + 1 > self.size_px:
            raise ValueError(
                f"objects of radius {largest_px} px do not fit into size_px={self.size_px}"
            )
        return self

    def num_videos(self, split: Split) -> int:
        """Number of videos in one split."""
        return {"train": self.train_videos, "val": self.val_videos, "test": self.test_videos}[split]


PRESETS: Final[dict[str, SyntheticConfig]] = {
    "tiny": SyntheticConfig(
        train_videos=24,
        val_videos=12,
        test_videos=12,
        size_px=32,
        num_frames=12,
        object_radius_px=(4.0, 7.0),
        orbit_radius_px=(3.0, 5.0),
        num_distractors=1,
        distractor_radius_px=(2.0, 3.0),
        camera_drift_px=1.0,
        noise_std=4.0,
    ),
    "demo": SyntheticConfig(
        train_videos=1440,
        val_videos=240,
        test_videos=600,
        size_px=48,
        num_frames=20,
        object_radius_px=(6.0, 11.0),
        speed_px_per_frame=(1.8, 3.6),
        turn_deg_per_frame=(18.0, 36.0),
        growth_pct_per_frame=(6.0, 10.0),
        orbit_radius_px=(4.0, 7.0),
        shake_amplitude_px=(3.0, 6.0),
        shake_period_frames=(5.0, 9.0),
        num_distractors=2,
        distractor_radius_px=(2.5, 5.0),
        distractor_speed_px_per_frame=0.2,
        camera_drift_px=2.0,
        background_contrast_pct=25.0,
        noise_std=5.0,
    ),
    "ablation": SyntheticConfig(
        train_videos=288,
        val_videos=960,
        test_videos=3120,
        scenes_in_all_classes=True,
        size_px=48,
        num_frames=20,
        object_radius_px=(5.0, 10.0),
        speed_px_per_frame=(1.2, 3.0),
        turn_deg_per_frame=(12.0, 30.0),
        growth_pct_per_frame=(4.0, 8.0),
        orbit_radius_px=(3.0, 6.0),
        shake_amplitude_px=(2.0, 5.0),
        shake_period_frames=(5.0, 10.0),
        num_distractors=2,
        distractor_radius_px=(2.5, 5.0),
        distractor_speed_px_per_frame=0.3,
        camera_drift_px=2.0,
        background_contrast_pct=25.0,
        noise_std=5.0,
    ),
    "study": SyntheticConfig(
        train_videos=6000,
        val_videos=1200,
        test_videos=3600,
        size_px=80,
        num_frames=32,
        num_distractors=4,
        distractor_speed_px_per_frame=0.6,
        camera_drift_px=8.0,
        background_contrast_pct=60.0,
        noise_std=10.0,
    ),
}
"""`tiny` for tests (a second or two), `demo` for `videokd demo`, `ablation` for `videokd reproduce
ablation` (so few scenes that a small student cannot learn all from them), `study` for small
differences between models."""


def preset_config(preset: str, *, seed: int, settings: Sequence[str] = ()) -> SyntheticConfig:
    """A preset with another seed, and `key=value` laid over it.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    values = PRESETS[preset].model_dump() | {"seed": seed} | parse_overrides(settings)
    return parse_config(SyntheticConfig, values, source=f"preset {preset}")


@dataclass(frozen=True)
class Trajectory:
    """What the object does, before the camera moves and exactly: float64 [T] each.

    `x_px` and `y_px` are not wrapped (take them modulo `size_px`); `radius_px` is wrapped into
    its range; `angle_rad` is not wrapped, positive clockwise.
    """

    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    angle_rad: NDArray[np.float64]


def label_of(number: int) -> int:
    """Class index of video `number` of any split: the classes take turns, so every split is
    balanced."""
    return number % len(CLASS_NAMES)


def trajectory(config: SyntheticConfig, split: Split, number: int) -> Trajectory:
    """The noiseless motion of the object in one video, as `render_video` draws it (less the
    camera's drift)."""
    return draw_trajectory(rng_of(config, split, number), config, label_of(number))


def rng_of(config: SyntheticConfig, split: Split, number: int) -> np.random.Generator:
    """All chance of one video: a generator of (seed, split, scene)."""
    scene = number // len(CLASS_NAMES) if config.scenes_in_all_classes else number
    return np.random.default_rng([config.seed, SPLITS.index(split), scene])


def draw_trajectory(rng: np.random.Generator, config: SyntheticConfig, label: int) -> Trajectory:
    """The path of the object that carries the label."""
    # Every draw is made for every class, in one order: what is drawn afterwards (textures,
    # distractors, camera, noise) therefore cannot depend on the class.
    steps = np.arange(config.num_frames, dtype=np.float64)
    x_px, y_px = rng.uniform(0, config.size_px, 2)
    angle_rad = rng.uniform(0, 2 * math.pi)
    low, high = np.log(config.object_radius_px)
    log_span = high - low
    radius_phase, cycle_phase = rng.uniform(0, 1, 2)
    speed_px = rng.uniform(*config.speed_px_per_frame)
    turn_rad = np.radians(rng.uniform(*config.turn_deg_per_frame))
    growth = np.log1p(rng.uniform(*config.growth_pct_per_frame) / 100)
    orbit_px = rng.uniform(*config.orbit_radius_px)
    shake_px = rng.uniform(*config.shake_amplitude_px)
    shake_period = rng.uniform(*config.shake_period_frames)

    cycle = 2 * math.pi * cycle_phase
    orbit_cos, orbit_sin = (
        orbit_px * np.cos(turn_rad * steps + cycle),
        orbit_px * np.sin(turn_rad * steps + cycle),
    )
    shake = shake_px * np.sin(2 * math.pi * steps / shake_period + cycle)
    zero = np.zeros_like(steps)
    # x shift, y shift, turn, growth of log-radius. With y downwards (cos, sin) runs clockwise.
    moves: dict[str, tuple[NDArray[np.float64], ...]] = {
        "translate_left": (-speed_px * steps, zero, zero, zero),
        "translate_right": (speed_px * steps, zero, zero, zero),
        "translate_up": (zero, -speed_px * steps, zero, zero),
        "translate_down": (zero, speed_px * steps, zero, zero),
        "rotate_cw": (zero, zero, turn_rad * steps, zero),
        "rotate_ccw": (zero, zero, -turn_rad * steps, zero),
        "grow": (zero, zero, zero, growth * steps),
        "shrink": (zero, zero, zero, -growth * steps),
        "orbit_cw": (orbit_cos, orbit_sin, zero, zero),
        "orbit_ccw": (orbit_cos, -orbit_sin, zero, zero),
        "shake_horizontal": (shake, zero, zero, zero),
        "shake_vertical": (zero, shake, zero, zero),
    }
    shift_x, shift_y, turn, log_growth = moves[CLASS_NAMES[label]]
    log_radius = (
        low + np.mod(radius_phase * log_span + log_growth, log_span) if log_span > 0 else low + zero
    )
    return Trajectory(x_px + shift_x, y_px + shift_y, np.exp(log_radius), angle_rad + turn)


def draw_distractor(rng: np.random.Generator, config: SyntheticConfig) -> Trajectory:
    """Stands still or drifts in a straight line; the same law in every class."""
    steps = np.arange(config.num_frames, dtype=np.float64)
    x_px, y_px = rng.uniform(0, config.size_px, 2)
    speed_px = rng.uniform(0, config.distractor_speed_px_per_frame) * rng.integers(2)
    heading, angle_rad = rng.uniform(0, 2 * math.pi, 2)
    radius_px = np.exp(rng.uniform(*np.log(config.distractor_radius_px)))
    still = np.ones_like(steps)
    return Trajectory(
        x_px + speed_px * math.cos(heading) * steps,
        y_px + speed_px * math.sin(heading) * steps,
        radius_px * still,
        angle_rad * still,
    )


def draw_camera(rng: np.random.Generator, config: SyntheticConfig) -> NDArray[np.float64]:
    """Shift of the whole scene in px, float64 [T,2] as (x, y): a bent line, `camera_drift_px`
    long at most."""
    progress = np.linspace(0, 1, config.num_frames)
    length_px = config.camera_drift_px * rng.uniform(0, 1)
    heading = rng.uniform(0, 2 * math.pi) + rng.uniform(-0.5, 0.5) * math.pi * progress
    return length_px * progress[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)

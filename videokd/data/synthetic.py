"""The embedded data set: short H.264 videos whose classes differ by motion and by nothing else.

A textured object moves over a textured background, among distractors, under a drifting camera,
with noise. The world is a torus: what leaves on one side enters on the other, and an object that
has grown to the largest radius goes on from the smallest. That is what closes the leaks:
position, log-radius and angle are each uniform **at every frame of every class**, so the
distribution of a single frame is the same for all classes, and only the order of frames tells
them apart. Growing and shrinking, clockwise and counter-clockwise, left and right are each
other's time reversals.

Letters: T frames, H W pixels (square, H = W = S). x grows to the right, y downwards; a positive
angle turns clockwise as the viewer sees it. Pixels are 0 to 255. Nothing here imports torch:
worker processes start fast.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from videokd.config import Config
from videokd.errors import UserError
from videokd.files import write_text, written_beside

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
CONFIG_FILE: Final = "synthetic.json"
# Part of the identity of a written folder: raise it whenever the same config would render other
# pixels.
RENDERER_VERSION: Final = 1

# Texels along one side of an object's patch: about one texel a pixel at the usual radii.
_PATCH_TEXELS: Final = 40
_CHUNK_VIDEOS: Final = 16


def _reach_px(radius_px: float) -> int:
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
        if 2 * _reach_px(largest_px) + 1 > self.size_px:
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
"""`tiny` for tests (a second or two), `demo` for `videokd demo`, `study` for small differences
between models."""


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
    return _draw_trajectory(_rng_of(config, split, number), config, label_of(number))


def render_video(
    config: SyntheticConfig, split: Split, number: int
) -> tuple[NDArray[np.uint8], int]:
    """One video as uint8 [T,H,W,3] RGB, before compression, and its class index. Pure: no state,
    no clock."""
    rng = _rng_of(config, split, number)
    label = label_of(number)
    path = _draw_trajectory(rng, config, label)
    camera_px = _draw_camera(rng, config)
    frames = _draw_background(rng, config, camera_px)
    objects = [(_draw_distractor(rng, config), 1.0) for _ in range(config.num_distractors)]
    # The class's object is drawn at a random depth among the distractors, so that neither is
    # always in front.
    objects.insert(
        int(rng.integers(config.num_distractors + 1)), (path, config.object_opacity_pct / 100)
    )
    for moving, opacity in objects:
        _paint_object(frames, _draw_patch(rng, opacity), moving, camera_px)
    if config.noise_std > 0:
        noise = rng.standard_normal(frames.shape[:3], dtype=np.float32) * np.float32(
            config.noise_std
        )
        frames += noise[..., None]
    np.clip(frames, 0, 255, out=frames)
    return (frames + np.float32(0.5)).astype(np.uint8), label


def write_dataset(
    out_dir: Path | str,
    config: SyntheticConfig,
    num_processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `out_dir/{train,val,test}/<class>/<number>.mp4` and `synthetic.json`, skipping what
    is already there.

    A file is written beside its place and renamed, so a file that exists is complete and an
    interrupted call can be repeated. `on_progress(done, total)` counts videos, those already
    there included. With more than one process the caller's main module must be importable without
    side effects (processes are spawned, not forked, because the caller may hold threads). Raises
    `UserError` when the folder belongs to another config or to something else.
    """
    out_dir = Path(out_dir)
    _claim_folder(out_dir, config)
    todo = [job for job in _all_videos(config) if not _video_path(out_dir, *job).exists()]
    total = sum(config.num_videos(split) for split in SPLITS)
    done = total - len(todo)
    report = on_progress or _say_nothing
    report(done, total)
    chunks = [todo[i : i + _CHUNK_VIDEOS] for i in range(0, len(todo), _CHUNK_VIDEOS)]
    try:
        for num_written in _write_chunks(out_dir, config, chunks, num_processes):
            done += num_written
            report(done, total)
    except OSError as error:
        raise UserError(
            f"cannot write the videos below {out_dir}: {error.strerror or error}; make room there"
            " or choose another folder, then repeat the command: finished videos are kept"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that wrote videos below {out_dir} died, most likely for want of memory;"
            " repeat the command with fewer processes: finished videos are kept"
        ) from error


def _say_nothing(_done: int, _total: int) -> None:
    pass


# --------------------------------------------------------------------------- motion


def _rng_of(config: SyntheticConfig, split: Split, number: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, SPLITS.index(split), number])


def _draw_trajectory(rng: np.random.Generator, config: SyntheticConfig, label: int) -> Trajectory:
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


def _draw_distractor(rng: np.random.Generator, config: SyntheticConfig) -> Trajectory:
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


def _draw_camera(rng: np.random.Generator, config: SyntheticConfig) -> NDArray[np.float64]:
    """Shift of the whole scene in px, float64 [T,2] as (x, y): a bent line, `camera_drift_px`
    long at most."""
    progress = np.linspace(0, 1, config.num_frames)
    length_px = config.camera_drift_px * rng.uniform(0, 1)
    heading = rng.uniform(0, 2 * math.pi) + rng.uniform(-0.5, 0.5) * math.pi * progress
    return length_px * progress[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)


# --------------------------------------------------------------------------- pixels


@functools.cache
def _stretch(num_cells: int, num_px: int) -> FloatArray:
    """Matrix [num_px, num_cells] that interpolates `num_cells` values, wrapped around, at
    `num_px` places."""
    place = np.arange(num_px) * num_cells / num_px
    cell = place.astype(np.int64)
    matrix = np.zeros((num_px, num_cells), dtype=np.float32)
    np.add.at(matrix, (np.arange(num_px), cell), 1 - (place - cell))
    np.add.at(matrix, (np.arange(num_px), (cell + 1) % num_cells), place - cell)
    return matrix


def _draw_texture(
    rng: np.random.Generator, num_px: int, cell_px: tuple[float, ...], contrast: float = 1.0
) -> FloatArray:
    """Smooth coloured noise, float32 [num_px, num_px, 3], that tiles; one layer for each cell
    size, summed."""
    colour = 128 + contrast * rng.uniform(-70, 70, 3).astype(np.float32)
    texture = np.broadcast_to(colour, (num_px, num_px, 3)).copy()
    swing = 70 * contrast
    for cell in cell_px:
        matrix = _stretch(max(2, round(num_px / cell)), num_px)
        num_cells = matrix.shape[1]
        values = rng.uniform(-swing, swing, (3, num_cells, num_cells)).astype(np.float32)
        texture += (matrix @ values @ matrix.T).transpose(1, 2, 0)
    return texture


def _draw_background(
    rng: np.random.Generator, config: SyntheticConfig, camera_px: NDArray[np.float64]
) -> FloatArray:
    """The empty scene, float32 [T,S,S,3], moved by the camera with bilinear interpolation."""
    size_px = config.size_px
    texture = _draw_texture(rng, size_px, (16.0, 6.0), config.background_contrast_pct / 100)
    whole = np.floor(camera_px).astype(np.int64)
    frames = np.empty((len(camera_px), size_px, size_px, 3), dtype=np.float32)
    for frame, shift, part in zip(
        frames, whole, (camera_px - whole).astype(np.float32), strict=True
    ):
        near = np.roll(texture, (shift[1], shift[0]), axis=(0, 1))
        along_x = near + part[0] * (np.roll(near, 1, axis=1) - near)
        frame[...] = along_x + part[1] * (np.roll(along_x, 1, axis=0) - along_x)
    return frames


def _draw_patch(rng: np.random.Generator, opacity: float) -> FloatArray:
    """A textured shape, float32 [P,P,4], colour times alpha and alpha: a disc, a polygon or a
    star."""
    colour = _draw_texture(rng, _PATCH_TEXELS, (20.0, 10.0))
    num_corners = int(rng.integers(3, 8))
    dent = rng.uniform(0, 0.5)
    axis = np.linspace(-1.05, 1.05, _PATCH_TEXELS)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    # Distance of the outline from the centre, in the direction of each texel; corners lie at
    # distance 1.
    sector = np.abs(np.mod(np.arctan2(y, x) * num_corners / (2 * math.pi), 1.0) * 2 - 1)
    outline = np.ones_like(sector) if num_corners == 7 else 1 - dent * (1 - sector)
    alpha = np.clip((outline - np.hypot(x, y)) * _PATCH_TEXELS / 4 + 0.5, 0, 1).astype(np.float32)
    # The outermost texels stay clear: sampling outside the patch is clamped to them.
    alpha[[0, -1], :] = alpha[:, [0, -1]] = 0
    alpha = alpha[..., None] * np.float32(opacity)
    return np.concatenate([colour * alpha, alpha], axis=2)


def _paint_object(
    frames: FloatArray, patch: FloatArray, path: Trajectory, camera_px: NDArray[np.float64]
) -> None:
    """Lay a patch along its path over frames [T,S,S,3], in place, all T frames at once."""
    num_frames, size_px = frames.shape[:2]
    centre = np.stack([path.x_px, path.y_px], axis=1) + camera_px
    whole = np.floor(centre)
    part = centre - whole
    reach = _reach_px(float(path.radius_px.max()))
    offsets = np.arange(-reach, reach + 1)
    # Window pixels relative to the centre, turned back and scaled into texels: [T,w,w].
    texels_per_px = (_PATCH_TEXELS - 1) / (2 * 1.05 * path.radius_px)
    cos = (np.cos(path.angle_rad) * texels_per_px).astype(np.float32)[:, None, None]
    sin = (np.sin(path.angle_rad) * texels_per_px).astype(np.float32)[:, None, None]
    dx = (offsets[None, :] - part[:, :1]).astype(np.float32)[:, None, :]
    dy = (offsets[None, :] - part[:, 1:]).astype(np.float32)[:, :, None]
    middle = np.float32((_PATCH_TEXELS - 1) / 2)
    colour_alpha = _bilinear(patch, middle + cos * dx + sin * dy, middle - sin * dx + cos * dy)

    rows = np.mod(whole[:, 1:].astype(np.int64) + offsets, size_px)
    columns = np.mod(whole[:, :1].astype(np.int64) + offsets, size_px)
    where = (np.arange(num_frames)[:, None, None], rows[:, :, None], columns[:, None, :])
    frames[where] = frames[where] * (1 - colour_alpha[..., 3:]) + colour_alpha[..., :3]


def _bilinear(patch: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Values of patch [P,P,C] at texel coordinates x, y of any one shape; outside it the (clear)
    border counts."""
    side = patch.shape[0]
    x = np.clip(x, 0, side - 1.001)
    y = np.clip(y, 0, side - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    part_x, part_y = (x - column)[..., None], (y - row)[..., None]
    texels = patch.reshape(side * side, -1)
    corner = row * side + column
    above = texels.take(corner, axis=0)
    above += part_x * (texels.take(corner + 1, axis=0) - above)
    below = texels.take(corner + side, axis=0)
    below += part_x * (texels.take(corner + side + 1, axis=0) - below)
    above += part_y * (below - above)
    return above


# --------------------------------------------------------------------------- files


def encode_video(path: Path, frames: NDArray[np.uint8], *, fps: int, gop: int, crf: int) -> None:
    """Write frames uint8 [T,H,W,3] as H.264 in MP4, beside `path` and then renamed. The same
    frames, the same bytes."""
    # One thread: with several, x264's choices depend on their number.
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "g": str(gop), "bf": "0"}
    with written_beside(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _all_videos(config: SyntheticConfig) -> Iterator[tuple[Split, int]]:
    for split in SPLITS:
        for number in range(config.num_videos(split)):
            yield split, number


def _video_path(out_dir: Path, split: Split, number: int) -> Path:
    return out_dir / split / CLASS_NAMES[label_of(number)] / f"{number:05d}.mp4"


def _write_chunks(
    out_dir: Path,
    config: SyntheticConfig,
    chunks: list[list[tuple[Split, int]]],
    num_processes: int,
) -> Iterator[int]:
    """Yield the number of videos written, whenever some are."""
    if num_processes <= 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield _write_chunk(out_dir, config, chunk)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(chunks)), mp_context=spawn) as pool:
        futures = [pool.submit(_write_chunk, out_dir, config, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # After a failure or Ctrl-C the rest is not rendered first; when all went well nothing
            # is left to cancel.
            pool.shutdown(wait=True, cancel_futures=True)


def _write_chunk(out_dir: Path, config: SyntheticConfig, videos: list[tuple[Split, int]]) -> int:
    for split, number in videos:
        frames, _ = render_video(config, split, number)
        encode_video(
            _video_path(out_dir, split, number),
            frames,
            fps=config.fps,
            gop=config.gop,
            crf=config.crf,
        )
    return len(videos)


def _claim_folder(out_dir: Path, config: SyntheticConfig) -> None:
    """Make the folders and `synthetic.json`, or make sure that they are this config's."""
    marker = out_dir / CONFIG_FILE
    mine = {"renderer_version": RENDERER_VERSION, "config": config.model_dump(mode="json")}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if marker.exists():
            _refuse_other_config(marker, mine)
        elif any(out_dir.iterdir()):
            raise UserError(
                f"{out_dir} is not empty and holds no {CONFIG_FILE};"
                " choose an empty or a new folder"
            )
        for split in SPLITS:
            for name in CLASS_NAMES:
                (out_dir / split / name).mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            write_text(marker, json.dumps(mine, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to {out_dir}: {error.strerror or error}; choose another folder"
        ) from error


def _refuse_other_config(marker: Path, mine: dict[str, object]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        theirs = {"renderer_version": found["renderer_version"], **found["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{marker} cannot be read; delete the folder or choose another one"
        ) from error
    config = mine["config"]
    assert isinstance(config, dict)
    ours = {"renderer_version": mine["renderer_version"], **config}
    other = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
    if other:
        told = ", ".join(
            f"{key}: {theirs.get(key)} there, {ours.get(key)} asked for" for key in other[:3]
        )
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise UserError(
            f"{marker.parent} holds videos of another setting ({told}{more});"
            " delete the folder or choose another one"
        )

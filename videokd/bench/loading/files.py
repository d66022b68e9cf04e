"""The video files of the loading benchmark: rendered here, so that anybody has the same ones.

A camera pans over a cloudy texture while textured discs move on their own, and every frame has
sensor noise of its own: enough detail that the encoders need about the bitrates of the videos that
people train on. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videokd.files import written_beside

Plane = NDArray[np.uint8]

_RENDERER_VERSION = 1
"""Part of the cache folder's name: other pixels are other files."""
_NUM_DISCS = 6
_STEEPNESS = 1.1
"""Amplitude falls as frequency to this power; photographs lie about 1, compressed videos above.
With it x264 at its default quality needs about 460 kbit/s for 340x256 and 2,400 for 720p."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """How one of the files is encoded."""

    suffix: str
    height: int
    width: int
    fps: int
    num_frames: int
    codec: str
    gop: int
    """Frames from one key frame to the next."""
    options: tuple[tuple[str, str], ...] = ()
    bit_rate: int = 0
    """Bits per second where the encoder is told them; 0: its constant quality."""
    about: str = ""


_REPEATABLE = (("x264-params", "mbtree=0"),)
"""x264's macroblock tree reads unwritten memory; without it the same pictures are the same bytes.
"""

KINDS: dict[str, FileKind] = {
    "long_gop": FileKind(
        ".mp4", 256, 340, 25, 250, "libx264", 250, _REPEATABLE,
        about="10 s 340x256 H.264, 250-frame GOP",
    ),
    "avi": FileKind(
        ".avi", 240, 320, 25, 175, "mpeg4", 12, bit_rate=550_000,
        about="7 s 320x240 MPEG-4 AVI, 12-frame GOP",
    ),
    "720p": FileKind(
        ".mp4", 720, 1280, 25, 250, "libx264", 250, _REPEATABLE,
        about="10 s 1280x720 H.264, 250-frame GOP",
    ),
}  # fmt: skip
"""The files by name. H.264: x264's preset `medium` with its own B-frames, CRF 23.
MPEG-4: about UCF101's mean bitrate, 550 kbit/s."""


def cache_folder() -> Path:
    """Where the rendered files stay: `videokd/bench` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "videokd" / "bench"


def make_file(
    kind: FileKind, path: Path, *, on_frame: Callable[[int, int], None] | None = None
) -> Path:
    """Render and encode one file, single-threaded, so that the same encoder gives the same bytes.

    Args:
        kind: size, length and codec.
        path: where to; written beside and renamed.
        on_frame: called with (frames done, frames in all).
    """
    import av

    with written_beside(path) as part:
        container = av.open(str(part), "w", format=kind.suffix.removeprefix("."))
        with container:
            stream: Any = container.add_stream(kind.codec, rate=kind.fps)
            stream.height, stream.width, stream.pix_fmt = kind.height, kind.width, "yuv420p"
            stream.codec_context.time_base = Fraction(1, kind.fps)
            stream.codec_context.gop_size = kind.gop
            stream.codec_context.thread_count = 1
            stream.options = dict(kind.options)
            if kind.bit_rate:
                stream.bit_rate = kind.bit_rate
            for number, planes in enumerate(moving_planes(kind.height, kind.width)):
                if number == kind.num_frames:
                    break
                frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, kind.fps)
                container.mux(stream.encode(frame))
                if on_frame is not None:
                    on_frame(number + 1, kind.num_frames)
            container.mux(stream.encode(None))
    return path


def made_files(
    names: tuple[str, ...],
    folder: Path,
    *,
    kinds: dict[str, FileKind] = KINDS,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Path]:
    """The files of that names in `folder`; those that are there already are left as they are."""
    paths = {name: folder / _file_name(name, kinds[name]) for name in names}
    missing = [name for name in names if not paths[name].is_file()]
    total = sum(kinds[name].num_frames for name in missing)
    before = 0
    for name in missing:
        kind = kinds[name]

        def report(done: int, _total: int, base: int = before, of: str = name) -> None:
            if on_progress is not None:
                on_progress(base + done, total, of)

        make_file(kind, paths[name], on_frame=report)
        before += kind.num_frames
    return paths


def moving_planes(height: int, width: int) -> Iterator[Plane]:
    """Frames without end, uint8 [H * 3 / 2, W]: Y, U and V planes of yuv420p, as PyAV takes them.

    `height` and `width` are even. Positions go by quarters of a pixel.
    """
    generator = np.random.default_rng(np.random.SeedSequence([_RENDERER_VERSION, height, width]))
    margin = height // 2
    ground = _texture(height + 2 * margin, width + 2 * margin, generator) * 40 + 115
    colour = [_texture(height + 2 * margin, width + 2 * margin, generator) for _ in range(2)]
    discs = [_Disc(height, width, generator) for _ in range(_NUM_DISCS)]
    noise = generator.normal(0, 1.5, size=(height + 64, width + 64)).astype(np.float32)
    shake = np.zeros(2)
    number = 0
    while True:
        shake = 0.9 * shake + generator.normal(0, 0.25, size=2)
        top = margin * (1 + 0.8 * np.sin(number / 90)) + shake[0]
        left = margin * (1 + 0.8 * np.cos(number / 110)) + shake[1]
        luma = _window(ground, top, left, height, width)
        chroma = [128 + 12 * _window(plane, top, left, height, width)[::2, ::2] for plane in colour]
        for disc in discs:
            disc.paint(luma, chroma, number)
        row, column = generator.integers(0, 64, size=2)
        luma += noise[row : row + height, column : column + width]
        planes = np.concatenate([luma.ravel(), *(plane.ravel() for plane in chroma)])
        yield planes.clip(16, 235).astype(np.uint8).reshape(height * 3 // 2, width)
        number += 1


class _Disc:
    """A textured disc that swings about a place."""

    def __init__(self, height: int, width: int, generator: np.random.Generator) -> None:
        self.radius = int(generator.uniform(0.08, 0.2) * height)
        self.centre = generator.uniform(0.2, 0.8, size=2) * (height, width)
        self.swing = generator.uniform(0.05, 0.25, size=2) * height
        self.pace = generator.uniform(0.03, 0.1, size=2)
        side = 2 * self.radius
        self.pixels = _texture(side, side, generator) * 45 + generator.uniform(60, 190)
        self.tint = generator.uniform(90, 166, size=2)
        y, x = np.mgrid[:side, :side] - self.radius + 0.5
        self.inside = y**2 + x**2 < self.radius**2

    def paint(
        self, luma: NDArray[np.float32], chroma: list[NDArray[np.float32]], number: int
    ) -> None:
        """Draw it where it is in frame `number`, as far as it lies in the picture."""
        place = self.centre + self.swing * np.sin(number * self.pace) - self.radius
        top, left = (int(2 * round(float(value) / 2)) for value in place)
        rows = slice(max(0, -top), min(2 * self.radius, luma.shape[0] - top))
        columns = slice(max(0, -left), min(2 * self.radius, luma.shape[1] - left))
        inside = self.inside[rows, columns]
        y, x = top + rows.start, left + columns.start
        part = luma[y : y + inside.shape[0], x : x + inside.shape[1]]
        part[inside] = self.pixels[rows, columns][inside]
        half = inside[::2, ::2]
        for plane, tint in zip(chroma, self.tint, strict=True):
            region = plane[y // 2 : y // 2 + half.shape[0], x // 2 : x // 2 + half.shape[1]]
            region[half] = tint


def _texture(height: int, width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Clouds, float32 [H, W] of mean 0 and deviation 1; see `_STEEPNESS`."""
    y = np.fft.fftfreq(height)[:, None]
    x = np.fft.rfftfreq(width)[None, :]
    amplitude = np.maximum(np.hypot(y, x), 1 / max(height, width)) ** -_STEEPNESS
    phase = generator.uniform(0, 2 * np.pi, size=amplitude.shape)
    plane = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(height, width))
    return ((plane - plane.mean()) / plane.std()).astype(np.float32)


def _window(
    plane: NDArray[np.float32], top: float, left: float, height: int, width: int
) -> NDArray[np.float32]:
    """A window at quarters of a pixel, bilinear, float32 [height, width]."""
    rows, columns = plane.shape[0] - height - 1, plane.shape[1] - width - 1
    top = round(min(max(top, 0), rows) * 4) / 4
    left = round(min(max(left, 0), columns) * 4) / 4
    y, x = int(top), int(left)
    down, right = top - y, left - x
    part = plane[y : y + height + 1, x : x + width + 1]
    across = part[:, :-1] * (1 - right) + part[:, 1:] * right
    return (across[:-1] * (1 - down) + across[1:] * down).astype(np.float32)


def _file_name(name: str, kind: FileKind) -> str:
    """Names what is in it, so that another renderer or encoder setting is another file."""
    said = repr((_RENDERER_VERSION, kind))
    return f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}{kind.suffix}"

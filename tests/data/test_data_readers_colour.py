"""The same pixels from every reader, and those that the file's colour matrix and range stand for.

Tolerances, in levels of 255: 5 against the formula (the codec library rounds its tables), and 2
between two readers of 8-bit files (0 where both are built alike).
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from videokd.data.readers import PyAVReader, open_video
from videokd.data.readers.torchcodec_reader import torchcodec_decoder
from videokd.data.scan.inspection import ScanFailure, ScanResult, inspect_video
from videokd.errors import UserError

FORMULA_TOLERANCE = 5
READER_TOLERANCE = 2
LIMITED, FULL = 1, 2
KR_KB = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""FFmpeg's number of a matrix -> shares of red and blue in luma; 2 is unspecified."""

FILES = {
    "unsaid.mp4": ("yuv420p", 2, 0),
    "bt601.mp4": ("yuv420p", 6, LIMITED),
    "bt709.mp4": ("yuv420p", 1, LIMITED),
    "bt2020.mp4": ("yuv420p", 9, LIMITED),
    "bt709_full.mp4": ("yuv420p", 1, FULL),
    "bt601_full.mp4": ("yuv420p", 6, FULL),
    "yuvj.mp4": ("yuvj420p", 2, FULL),
    "bt709_422.mp4": ("yuv422p", 1, LIMITED),
    "bt709_444.mp4": ("yuv444p", 1, LIMITED),
    "bt709_10_bit.mp4": ("yuv420p10le", 1, LIMITED),
}
H, W = 96, 128


def colourful(number: int) -> np.ndarray:
    """Ramps of all colours, and a patch of a pure one."""
    y, x = np.mgrid[:H, :W]
    frame = np.stack([x * 2 + number * 9, y * 2 + number * 5, (x + y) + number * 31], -1) % 256
    frame[32:64, 48:80] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)][number % 4]
    return frame.astype(np.uint8)


def write_colourful(path: Path, pix_fmt: str, matrix: int, colour_range: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt, stream.height, stream.width = pix_fmt, H, W
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = colour_range
        stream.options = {"preset": "veryfast", "crf": "10"}
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(colourful(i), format="rgb24").reformat(
                format=pix_fmt
            )
            frame.colorspace, frame.color_range, frame.pts = matrix, colour_range, i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def by_formula(frame: av.VideoFrame) -> np.ndarray:
    """RGB of a YUV frame in float64; each pixel takes the chroma sample that it lies in."""
    bits = frame.format.components[0].bits
    dtype = np.uint16 if bits > 8 else np.uint8
    planes = [
        np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width].astype(np.float64)
        for p in frame.planes
    ]
    luma = planes[0]
    rows, columns = (a // b for a, b in zip(luma.shape, planes[1].shape, strict=True))
    u, v = (np.repeat(np.repeat(p, rows, 0), columns, 1) for p in planes[1:])
    unit = 2.0 ** (bits - 8)
    if frame.color_range == FULL or frame.format.name.startswith("yuvj"):
        luma, u, v = (a / (2**bits - 1) for a in (luma, u - 128 * unit, v - 128 * unit))
    else:
        luma = (luma / unit - 16) / 219
        u, v = ((a / unit - 128) / 224 for a in (u, v))
    kr, kb = KR_KB[frame.colorspace]
    red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("colour")


def made(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else write_colourful(path, *FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_pyav_honours_matrix_and_range(name: str, folder: Path) -> None:
    path = made(folder, name)
    with PyAVReader(path) as video:
        expected = np.stack([by_formula(frame) for frame in video.frames()])
        found = video.read(np.arange(12)).astype(np.float64)
    assert np.abs(found - expected).max() <= FORMULA_TOLERANCE


def test_the_formula_tells_matrices_and_ranges_apart(folder: Path) -> None:
    with PyAVReader(made(folder, "bt709.mp4")) as video:
        frame = next(video.frames())
        right = by_formula(frame)
        frame.colorspace = 6
        assert np.abs(by_formula(frame) - right).max() > 4 * FORMULA_TOLERANCE
        frame.colorspace, frame.color_range = 1, FULL
        assert np.abs(by_formula(frame) - right).max() > 2 * FORMULA_TOLERANCE


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", [name for name in FILES if "10_bit" not in name])
def test_readers_agree_on_8_bit_files(name: str, reader: str, folder: Path) -> None:
    if reader == "torchcodec":
        try:
            torchcodec_decoder()
        except UserError as error:
            pytest.skip(str(error))
    path = made(folder, name)
    ids = np.arange(12)
    with open_video(path, reader) as theirs, open_video(path, "pyav") as ours:
        difference = np.abs(theirs.read(ids).astype(int) - ours.read(ids)).max()
    assert difference <= READER_TOLERANCE
    assert isinstance(list(inspect_video(path, readers=(reader,)))[-1], ScanResult)


def test_deeper_files_go_to_pyav(folder: Path) -> None:
    # decord smooths the chroma of 10-bit files, and so gives other pixels than for 8-bit ones.
    path = made(folder, "bt709_10_bit.mp4")
    refused = list(inspect_video(path, readers=("decord",)))[-1]
    assert isinstance(refused, ScanFailure)
    assert "decord shows another picture as frame 0" in refused.reason
    chosen = list(inspect_video(path))[-1]
    assert isinstance(chosen, ScanResult)
    assert chosen.reader == "pyav"

"""Folders of numbered JPEG and PNG frames."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numbered_video import numbered_frame, numbers_of
from PIL import Image

from videokd.data.readers import FrameFolderReader, open_video
from videokd.data.readers.damage import jpeg_damage
from videokd.data.scan import scan, scan_video
from videokd.data.scan.inspection import ScanFailure, ScanResult, video_bytes, video_digest
from videokd.errors import UnreadableVideo


def write_frames(folder: Path, pattern: str, numbers: list[int], size=(64, 96)) -> Path:
    """Pictures that carry their number."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(numbered_frame(number, *size)).save(folder / (pattern % number), quality=95)
    return folder


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("img_%05d.jpg", 1),  # mmaction2
        ("%06d.jpg", 1),  # TSM's Something-Something v2
        ("78687_%06d.JPG", 0),  # PySlowFast
        ("%d.jpeg", 8),  # natural order, not that of the alphabet
        ("v_Clip_2_%03d.png", 98),
    ],
)
def test_frames_come_by_number(pattern: str, first: int, tmp_path: Path) -> None:
    numbers = list(range(first, first + 12))
    folder = write_frames(tmp_path / "clip", pattern, numbers)
    with open_video(folder, "frames", num_frames=12) as video:
        assert video.num_frames == 12
        for ids in ([11, 0, 3, 3, 7], [5], list(range(12))):
            frames = video.read(np.array(ids))
            assert (frames.dtype, frames.shape) == (np.uint8, (len(ids), 64, 96, 3))
            assert numbers_of(frames) == [numbers[i] for i in ids]


def test_png_frames_are_bit_exact(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", "%d.png", [1, 2, 3])
    frames = FrameFolderReader(folder).read(np.arange(3))
    np.testing.assert_array_equal(frames, [numbered_frame(i) for i in (1, 2, 3)])


@pytest.mark.parametrize("named", ["img", "image", "frame"])
def test_the_series_named_as_pictures_is_taken(named: str, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", f"{named}_%05d.jpg", [1, 2, 3])
    for other in ("flow_x", "flow_y", "depth"):
        write_frames(folder, f"{other}_%05d.jpg", [7, 8])
    (folder / "notes.txt").write_text("of another file")
    (folder / "._img_00001.jpg").write_bytes(b"a resource fork")
    assert numbers_of(FrameFolderReader(folder).read(np.arange(3))) == [1, 2, 3]


def test_the_only_series_beside_flow_is_taken(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", "rgb%04d.jpg", [1, 2])
    for other in ("flow_x", "flow_y"):
        write_frames(folder, f"{other}_%05d.jpg", [7])
    assert numbers_of(FrameFolderReader(folder).read(np.arange(2))) == [1, 2]


def refused(folder: Path, why: str) -> None:
    with pytest.raises(UnreadableVideo, match=why) as caught:
        FrameFolderReader(folder)
    assert "\n" not in str(caught.value)


def test_what_is_not_plainly_a_series_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder")
    refused(write_frames(tmp_path / "empty", "", []), r"no numbered \.jpg, \.jpeg or \.png")
    gap = write_frames(tmp_path / "gap", "img_%05d.jpg", [1, 2, 5, 6])
    refused(gap, r"frame 3 is missing between img_00001\.jpg and img_00006\.jpg \(2 missing in all")
    two = write_frames(tmp_path / "two", "left_%d.jpg", [1, 2])
    write_frames(two, "right_%d.jpg", [1, 2])
    refused(two, r"2 series of frames \(left_1\.jpg, right_1\.jpg\); name the pictures img_00001")
    flow = write_frames(tmp_path / "flow", "x_%d.jpg", [1])
    write_frames(flow, "y_%d.jpg", [1])
    refused(flow, r"2 series of frames \(x_1\.jpg, y_1\.jpg\)")
    twice = write_frames(tmp_path / "twice", "%d.jpg", [1])
    write_frames(twice, "%03d.jpg", [1])
    refused(twice, r"frame 1 stands twice: 001\.jpg and 1\.jpg")
    unnumbered = write_frames(tmp_path / "unnumbered", "img_%d.jpg", [1])
    Image.new("RGB", (8, 8)).save(unnumbered / "cover.jpg")
    refused(unnumbered, r"cover\.jpg has no number")


def test_another_number_of_frames_than_scanned(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", "%d.jpg", [1, 2, 3])
    with pytest.raises(UnreadableVideo, match="shows 3 frames, the index says 4; index it again"):
        open_video(folder, "frames", num_frames=4)
    with pytest.raises(UnreadableVideo, match="no frame rate of its own"):
        _ = open_video(folder, "frames").fps


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = numbered_frame(5)
    picture = Image.fromarray(np.rot90(upright))  # lies on its left side
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    picture.save(tmp_path / "1.jpg", quality=95, exif=exif)
    frames = FrameFolderReader(tmp_path).read(np.array([0]))
    assert frames.shape == (1, 64, 96, 3)
    assert numbers_of(frames) == [5]


def test_modes_of_pictures(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for number, mode in enumerate(["L", "P", "LA", "RGBA"]):
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{number}.png")
    frames = FrameFolderReader(tmp_path).read(np.arange(4))
    np.testing.assert_array_equal(frames, np.broadcast_to(grey[..., None], (4, 8, 8, 3)))
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(grey.astype(np.uint16) * 257).save(deep / "1.png")
    with pytest.raises(UnreadableVideo, match=r"deep/1\.png.*8 bits a channel are needed"):
        FrameFolderReader(deep).read(np.array([0]))


def test_the_scan_of_a_folder(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", "img_%05d.jpg", list(range(1, 9)))
    write_frames(folder, "flow_x_%05d.jpg", [1])
    files = sorted(folder.glob("img_*"))
    found = scan_video(folder, frames_fps=12.5)
    whole = hashlib.sha256()
    for path in files:
        for part in (path.name.encode(), path.read_bytes()):
            whole.update(len(part).to_bytes(8, "little") + part)
    assert found == ScanResult(
        path=folder,
        num_frames=8,
        fps=12.5,
        height=64,
        width=96,
        reader="frames",
        bytes=sum(path.stat().st_size for path in files),
        digest=whole.hexdigest()[:16],
    )
    assert (video_bytes(folder), video_digest(folder)) == (found.bytes, found.digest)
    files[3].rename(folder / "img_00009.jpg")
    files[4].rename(files[3])
    with pytest.raises(UnreadableVideo, match="frame 5 is missing"):
        scan_video(folder, frames_fps=12.5)


def test_folders_that_the_scan_refuses(tmp_path: Path) -> None:
    good = write_frames(tmp_path / "good", "%d.jpg", [1, 2])
    mixed = write_frames(tmp_path / "mixed", "%d.jpg", [1, 2])
    write_frames(mixed, "%d.jpg", [3], size=(64, 64))
    cut = write_frames(tmp_path / "cut", "%d.jpg", [1, 2])
    (cut / "2.jpg").write_bytes((cut / "1.jpg").read_bytes()[:-300])
    (without_rate,) = scan([good])
    assert isinstance(without_rate, ScanFailure)
    assert without_rate.reason == (
        "a folder of frames has no frame rate of its own; give --frames-fps"
    )
    found = scan([mixed, cut], frames_fps=25.0)
    reasons = [result.reason for result in found if isinstance(result, ScanFailure)]
    assert reasons[0] == "its frames are not all of one size: 3.jpg is 64x64 px, 1.jpg 64x96"
    assert reasons[1].startswith("2.jpg: ")
    assert "truncated" in reasons[1].lower()
    with pytest.raises(UnreadableVideo, match="not all of one size"):
        FrameFolderReader(mixed).read(np.arange(3))


def test_damage_of_a_jpeg_that_pillow_passes_over(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "1.jpg"
    for options in ({}, {"progressive": True}, {"quality": 100, "subsampling": 0}):
        Image.fromarray(picture).save(path, **options)
        assert jpeg_damage(path) == ""
    Image.fromarray(picture).convert("CMYK").save(path)
    assert jpeg_damage(path) == ""
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    start = content.index(b"\xff\xda") + 14
    # The end of the picture comes after a third of it; Pillow shows the rest in grey.
    path.write_bytes(content[: start + (len(content) - start) // 3] + b"\xff\xd9")
    assert jpeg_damage(path) != ""

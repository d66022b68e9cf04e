from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_video import numbers_of, write_numbered

from videokd.data.inspection import inspect_video
from videokd.data.readers import READERS, DecordReader, PyAVReader, open_video
from videokd.errors import ConfigError, UnreadableVideo

UNSORTED = [49, 0, 7, 7, 30, 13, 25, 24, 1]
VFR = [100 * i + i * i % 7 * 9 for i in range(50)]

EXACT_FOR_BOTH = {
    "plain.mp4": {},
    "b_frames.mp4": {"max_b_frames": 3},
    "variable_rate.mp4": {"max_b_frames": 2, "stamps": VFR},
    "one_gop.mp4": {"gop": 250, "max_b_frames": 3},
    "matroska.mkv": {"max_b_frames": 2},
    "odd_size.mp4": {"pix_fmt": "yuv444p", "size": (63, 101)},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "turned_1.mp4": {"quarter_turns": 1},
    "turned_2.mp4": {"quarter_turns": 2},
    "turned_3.mp4": {"quarter_turns": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@pytest.mark.parametrize("name", EXACT_FOR_BOTH)
def test_both_readers_give_the_frames_asked_for(name: str, folder: Path) -> None:
    options = EXACT_FOR_BOTH[name]
    path = write_numbered(folder / name, 50, **options)
    for reader in READERS:
        with open_video(path, reader, num_frames=50) as video:
            assert video.num_frames == 50
            frames = video.read(np.array(UNSORTED))
            assert frames.dtype == np.uint8
            assert frames.shape == (len(UNSORTED), *options.get("size", (64, 96)), 3)
            assert numbers_of(frames) == UNSORTED, reader
            assert numbers_of(video.read(np.arange(50))) == list(range(50)), reader
    assert list(inspect_video(path))[-1].reader == "decord"


OPEN_GOP = {"max_b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0"}}
ONLY_PYAV = {
    "open_gop.mp4": (OPEN_GOP, "open GOP"),
    "b_frames.avi": ({"codec": "mpeg4", "max_b_frames": 2}, "open GOP"),
}


@pytest.mark.parametrize("name", ONLY_PYAV)
def test_where_decord_miscounts_the_inspection_chooses_pyav(name: str, folder: Path) -> None:
    options, why = ONLY_PYAV[name]
    path = write_numbered(folder / name, 50, **options)
    generator = np.random.default_rng(0)
    wanted = [generator.choice(50, size, replace=False).tolist() for size in (1, 2, 3, 8) * 5]
    with open_video(path, "pyav", num_frames=50) as video:
        assert [numbers_of(video.read(np.array(ids))) for ids in wanted] == wanted
    found = list(inspect_video(path))[-1]
    assert (found.reader, found.num_frames) == ("pyav", 50)
    assert why in found.note
    # Not an idle caution: decord gives other frames than asked for, without an error.
    wrong = []
    for ids in wanted:
        with open_video(path, "decord", num_frames=50) as video:
            wrong += [ids] if numbers_of(video.read(np.array(ids))) != ids else []
    assert wrong


def test_an_edit_list_hides_frames(folder: Path) -> None:
    path = write_numbered(folder / "hidden.mp4", 50, hidden=9)
    with open_video(path, "pyav") as video:
        assert video.num_frames == 41
        assert numbers_of(video.read(np.array([40, 0, 12]))) == [49, 9, 21]
    with open_video(path, "pyav", num_frames=41) as video:
        assert not video.jumps
        assert numbers_of(video.read(np.array([40, 0, 12]))) == [49, 9, 21]
    with pytest.raises(UnreadableVideo, match="shows 50 frames, the index says 41; index it again"):
        open_video(path, "decord", num_frames=41)
    assert list(inspect_video(path))[-1].reader == "pyav"


def test_pyav_jumps_to_key_frames_only_with_a_scanned_count(folder: Path) -> None:
    path = write_numbered(folder / "jump.mp4", 240, gop=12, max_b_frames=2)
    with PyAVReader(path) as video:
        assert not video.jumps
    with PyAVReader(path, num_frames=239) as video:
        assert not video.jumps
    with PyAVReader(path, num_frames=240) as video:
        assert video.jumps
        decoded = []
        original = video._decoded
        video._decoded = lambda: (decoded.append(f) or f for f in original())
        assert numbers_of(video.read(np.array([230, 119]))) == [230, 119]
        assert len(decoded) <= 2 * 13  # two GOPs, not 231 frames


def test_seconds_are_ids_by_the_mean_rate(folder: Path) -> None:
    path = write_numbered(folder / "seconds.mp4", 10, fps=20)
    for reader in READERS:
        with open_video(path, reader) as video:
            assert video.fps == 20
            assert video.frame_seconds(np.array([0, 5, 9])).tolist() == [0, 0.25, 0.45]


def test_a_file_that_ends_early_is_not_padded(folder: Path) -> None:
    whole = write_numbered(folder / "whole.mkv", 60, gop=12).read_bytes()
    path = folder / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    with PyAVReader(path) as video:
        count = video.num_frames
        assert 0 < count < 60
    with PyAVReader(path) as video:
        assert numbers_of(video.read(np.array([count - 1]))) == [count - 1]
        with pytest.raises(UnreadableVideo, match=f"frame {count} does not decode"):
            video.read(np.array([count]))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_video_is_one_plain_line(reader: str, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    for path in (text, empty):
        with pytest.raises(UnreadableVideo, match="cannot be read as a video: ") as caught:
            open_video(path, reader)
        assert "\n" not in str(caught.value)
        assert caught.value.path == path
    with pytest.raises(UnreadableVideo, match=r"nowhere\.mp4: .*no such file"):
        open_video(tmp_path / "nowhere.mp4", reader)


@pytest.mark.parametrize("reader", READERS)
def test_ids_outside_the_video_are_an_error(reader: str, folder: Path) -> None:
    path = write_numbered(folder / f"ids_{reader}.mp4", 10)
    with open_video(path, reader, num_frames=10) as video:
        with pytest.raises(IndexError, match=r"9\.\.10 outside \[0, 10\)"):
            video.read(np.array([9, 10]))
        with pytest.raises(IndexError, match=r"-1\.\.3 outside"):
            video.read(np.array([3, -1]))
        with pytest.raises(ValueError, match="at least one number"):
            video.read(np.array([], dtype=np.int64))


def test_an_unknown_reader_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="reader 'decrod' is not known; did you mean 'decord'"):
        open_video("any.mp4", "decrod")


def test_sound_without_pictures(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match="no video stream"):
        PyAVReader(path)
    with pytest.raises(UnreadableVideo, match="cannot be read as a video"):
        DecordReader(path)


def test_decord_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys, videokd.data.readers, videokd.data.scan, videokd.data.loading\n"
        "assert not {'decord', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_video import numbers_of, write_numbered

from videokd.data.readers import DecordReader, PyAVReader, open_video
from videokd.data.scan.inspection import check_readers
from videokd.errors import ConfigError, UnreadableVideo, UserError

FILE_READERS = ["decord", "pyav"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def test_decord_does_not_pass_over_an_edit_list_in_silence(folder: Path) -> None:
    path = write_numbered(folder / "hidden.mp4", 50, hidden=9)
    with open_video(path, "pyav") as video:
        assert video.num_frames == 41
    with pytest.raises(UnreadableVideo, match="shows 50 frames, the index says 41; index it again"):
        open_video(path, "decord", num_frames=41)


def test_seconds_are_ids_by_the_mean_rate(folder: Path) -> None:
    path = write_numbered(folder / "seconds.mp4", 10, fps=20)
    for reader in FILE_READERS:
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


@pytest.mark.parametrize("reader", FILE_READERS)
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


@pytest.mark.parametrize("reader", FILE_READERS)
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
        "assert not {'av', 'decord', 'torch', 'torchcodec', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchcodec_that_is_not_there_is_one_plain_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(folder / "any.mp4", 5)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for use in (lambda: open_video(path, "torchcodec"), lambda: check_readers(("torchcodec",))):
        with pytest.raises(UserError, match=r"pip install 'videokd\[torchcodec\]'"):
            use()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    at_once = "raise RuntimeError('Could not load libtorchcodec.\\nReasons: many')"
    later = f"def VideoDecoder(source, **settings):\n    {at_once}"  # from 0.17 on
    for number, (package, decoders) in enumerate([(at_once, ""), ("", later)]):
        broken = tmp_path / str(number) / "torchcodec"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text(package)
        (broken / "decoders.py").write_text(decoders)
        monkeypatch.syspath_prepend(broken.parent)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
            monkeypatch.delitem(sys.modules, name)
        for use in (lambda: open_video(path, "torchcodec"), lambda: check_readers(("torchcodec",))):
            with pytest.raises(UserError, match="does not find FFmpeg's libraries") as caught:
                use()
            assert "\n" not in str(caught.value)

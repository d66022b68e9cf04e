"""What clumsy users do: nothing of theirs is written over, nothing is counted twice in silence."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videokd.cli import main
from videokd.data.annotations import Annotation
from videokd.data.annotations.folder import read_folder
from videokd.data.index import build_index, classes_path, read_index
from videokd.data.index.reading import read_classes
from videokd.data.indexing import Indexed, IndexRequest, index_videos
from videokd.data.prepare import prepare_videos
from videokd.errors import ConfigError, UserError
from videokd.files import write_text


def indexed(request: IndexRequest, out: Path, *, force: bool = False) -> Indexed:
    return index_videos(
        request, out, num_processes=1, time_limit_seconds=60, replace_existing=force
    )


@pytest.mark.parametrize(
    "names", [("0 clap", "1 wave"), ("3 clap", "7 wave"), ("0 clap", "wave"), ("1", "2")]
)
def test_class_names_come_back_as_they_were(
    video_folder: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    videos = [
        Annotation(next((video_folder / side).iterdir()), (name,))
        for side, name in zip(("left", "right"), names, strict=True)
    ]
    made, _ = build_index(videos, tmp_path / "a.csv")
    assert tuple(read_classes(classes_path(tmp_path / "a.csv"))) == names
    again = read_index(tmp_path / "a.csv")
    assert (tuple(again.classes), again.records) == (names, made.records)


@pytest.mark.parametrize("name", [" clap", "clap ", "a\u2028b"])
def test_class_names_that_no_line_holds_are_refused(tmp_path: Path, name: str) -> None:
    videos = [Annotation(tmp_path / "absent.mp4", (name,))]
    with pytest.raises(UserError, match="has no space at its ends and no line break; rename it"):
        build_index(videos, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_an_index_is_not_written_over_what_it_is_made_of(
    video_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "mine.csv"
    source.write_text("path,label\nabsent.mp4,left\n")
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"mine\.csv: is what the index is made of"):
        indexed(IndexRequest(source=source), source, force=True)
    with pytest.raises(UserError, match=r"mine\.csv: is what the index is made of"):
        indexed(IndexRequest(source=video_folder, lists={"train": source}), source, force=True)
    assert source.read_bytes() == before


def test_numbered_class_names_are_not_written_over(video_folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "train.txt"
    video = next((video_folder / "left").iterdir())
    lines.write_text(f"{video} 2\n")
    classes = tmp_path / "mine.classes.txt"
    classes.write_text("1 right\n2 left\n")
    request = IndexRequest(source=video_folder, lists={"train": lines}, classes=classes)
    with pytest.raises(UserError, match=r"mine\.classes\.txt: the class names of .* written there"):
        indexed(request, tmp_path / "mine.csv")
    assert classes.read_text() == "1 right\n2 left\n"
    index = indexed(request, tmp_path / "other.csv").index
    assert [index.classes[i] for i in index.records[0].labels] == ["left"]


def test_an_index_ends_in_csv_so_that_its_class_names_are_its_own(
    video_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"mine\.v2: an index is a CSV"):
        indexed(IndexRequest(source=video_folder), tmp_path / "mine.v2")


def test_a_link_that_leads_back_up_shows_no_video_twice(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / "v" / name / "more").mkdir(parents=True)
        (tmp_path / "v" / name / "more" / "1.mp4").touch()
    (tmp_path / "v" / "left" / "back").symlink_to(tmp_path / "v", target_is_directory=True)
    (tmp_path / "v" / "right" / "self").symlink_to(".", target_is_directory=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "2.mp4").touch()
    (other / "again").symlink_to(tmp_path / "v" / "right", target_is_directory=True)
    (tmp_path / "v" / "right" / "other").symlink_to(other, target_is_directory=True)
    found = [a.path.relative_to(tmp_path / "v").as_posix() for a in read_folder(tmp_path / "v")]
    assert found == ["left/more/1.mp4", "right/more/1.mp4", "right/other/2.mp4"]


def test_another_rate_of_the_same_frames_is_prepared_again(tmp_path: Path) -> None:
    for name in ("left", "right"):
        folder = tmp_path / "frames" / name / "one"
        folder.mkdir(parents=True)
        for i in range(4):
            grey = np.full((32, 32, 3), 60 * i, np.uint8)
            Image.fromarray(grey).save(folder / f"img_{i:05d}.jpg")
    for fps in (10.0, 25.0):
        request = IndexRequest(source=tmp_path / "frames", frames_fps=fps)
        indexed(request, tmp_path / "frames.csv", force=True)
        report = prepare_videos(tmp_path / "frames.csv", tmp_path / "new")
        assert report.num_kept == 0
        assert [r.fps for r in read_index(report.index).records] == [fps, fps]
    assert prepare_videos(tmp_path / "frames.csv", tmp_path / "new").num_kept == 2
    shutil.rmtree(tmp_path / "new")


def test_a_full_disk_is_told_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*index\.csv'"):
        write_text(tmp_path / "index.csv", "content")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--workers", "99999999999"], "99999999999 are more processes than 999"),
        (["index", ".", "--list", "a;b=x.txt", "--out", "i.csv"], "name of a split has no ';'"),
    ],
)
def test_options_that_cannot_be_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["data", *arguments])
    assert message in capsys.readouterr().err

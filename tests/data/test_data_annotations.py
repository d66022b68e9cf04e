from __future__ import annotations

import logging
from pathlib import Path

import pytest

from videokd.data.annotations import (
    Annotation,
    ClassFile,
    default_classes,
    read_class_file,
    read_csv,
    read_folder,
    read_list,
)
from videokd.errors import UserError
from videokd.types import ClassNames


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A place with empty files; annotations never look into them."""
    return tmp_path / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def summary(annotations: list[Annotation], root: Path) -> list[tuple[str, str, str]]:
    return [(str(a.path.relative_to(root)), ";".join(a.label_names), a.split) for a in annotations]


def test_folder_per_class(root: Path) -> None:
    touch(root, "wave/b.mp4", "clap/deep/er/c d.AVI", "clap/a.mkv", ".cache/x.mp4")
    assert summary(read_folder(root), root) == [
        ("clap/a.mkv", "clap", ""),
        ("clap/deep/er/c d.AVI", "clap", ""),
        ("wave/b.mp4", "wave", ""),
    ]


def test_folder_per_split_and_class(root: Path) -> None:
    touch(root, "train/wave/a.mp4", "train/clap/b.mp4", "Validation/wave/c.mp4", "test/wave/d.mp4")
    assert summary(read_folder(root), root) == [
        ("Validation/wave/c.mp4", "wave", "val"),
        ("test/wave/d.mp4", "wave", "test"),
        ("train/clap/b.mp4", "clap", "train"),
        ("train/wave/a.mp4", "wave", "train"),
    ]


def test_a_class_named_train_beside_others_is_a_class(root: Path) -> None:
    touch(root, "train/a.mp4", "aeroplane/b.mp4")
    assert [a.label_names for a in read_folder(root)] == [("aeroplane",), ("train",)]


def test_files_that_are_no_videos_are_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root, "wave/a.mp4", "wave/._a.mp4", "wave/notes.txt", "readme.md")
    ignored: list[tuple[str, str]] = []
    read_folder(root, on_ignored=lambda path, why: ignored.append((path.name, why)))
    assert sorted(ignored) == [
        ("._a.mp4", "a macOS resource fork, not a video"),
        ("notes.txt", ".txt ending, not one of a video"),
        ("readme.md", ".md ending, not one of a video"),
    ]
    with caplog.at_level(logging.WARNING):
        assert len(read_folder(root)) == 1
    assert "3 files are not videos and were ignored" in caplog.text


def test_bad_folders(root: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_folder(root)
    root.mkdir()
    with pytest.raises(UserError, match=r"no videos in it; expected data/<class>/<video>"):
        read_folder(root)
    touch(root, "wave/._only_a_fork.mp4")
    with pytest.raises(UserError, match=r"wave: no videos in it; remove the folder"):
        read_folder(root, on_ignored=lambda path, why: None)
    touch(root, "wave/a.mp4", "loose.mp4")
    with pytest.raises(UserError, match=r"loose\.mp4: a video outside of any class folder"):
        read_folder(root, on_ignored=lambda path, why: None)


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classInd.txt"
    path.write_text("1 Apply Make Up\n2 Archery\n\n")
    assert read_class_file(path) == ClassFile(ClassNames(["Apply Make Up", "Archery"]), 1)
    path.write_text("0 left\n1 right")
    assert read_class_file(path) == ClassFile(ClassNames(["left", "right"]), 0)
    path.write_text("pour water\nrun\n")
    assert read_class_file(path) == ClassFile(ClassNames(["pour water", "run"]), 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 a\n2 b\n", r"classes\.txt:2: class 2 where 1 should follow"),
        ("a\nb\na\n", r"classes\.txt: class name 'a' stands twice"),
        ("\n", r"classes\.txt: no class names in it"),
    ],
)
def test_bad_class_files(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=why):
        read_class_file(path)
    with pytest.raises(UserError, match="no such file"):
        read_class_file(tmp_path / "none.txt")


def write_list(root: Path, text: str) -> Path:
    touch(root, "a.mp4", "b c/d e.mp4", "f.mp4")
    path = root / "list.txt"
    path.write_text(text)
    return path


def test_list_with_indices_names_and_spaces(root: Path) -> None:
    path = write_list(root, "a.mp4 0\n\nb c/d e.mp4 right\n  f.mp4   1 \n")
    found = read_list(path, root, ClassNames(["left", "right"]), split="val")
    assert summary(found, root) == [
        ("a.mp4", "left", "val"),
        ("b c/d e.mp4", "right", "val"),
        ("f.mp4", "right", "val"),
    ]
    one_based = ClassFile(ClassNames(["left", "right"]), 1)
    path.write_text("a.mp4 1\nf.mp4 2\n")
    assert [a.label_names for a in read_list(path, root, one_based)] == [("left",), ("right",)]
    assert [a.label_names for a in read_list(path, root)] == [("1",), ("2",)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.mp4 0\nf.mp4 2\n", r"list\.txt:2: label 2 is outside the classes 0\.\.1"),
        ("a.mp4 -1\n", r"list\.txt:1: label -1 is outside"),
        ("a.mp4 lift\n", r"list\.txt:1: 'lift' is not one of the 2 classes; did you mean 'left'"),
        ("a.mp4\n", r"list\.txt:1: 'a\.mp4' has no label"),
        ("a.mp4 0\nx.mp4 1\ny.mp4 0\n", r"list\.txt:2: no such file: .*x\.mp4 \(and 1 more"),
        ("a.mp4 0\nf.mp4 0\na.mp4 1\n", r"list\.txt:3: .*a\.mp4 stands already in line 1"),
        ("\n", r"list\.txt: no lines in it"),
    ],
)
def test_bad_lists(text: str, why: str, root: Path) -> None:
    path = write_list(root, text)
    with pytest.raises(UserError, match=why):
        read_list(path, root, ClassNames(["left", "right"]))


def test_a_list_that_is_not_text(root: Path) -> None:
    path = write_list(root, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not readable as text"):
        read_list(path, root)
    with pytest.raises(UserError, match="no such folder"):
        read_list(path, root / "nowhere")


def test_csv(root: Path) -> None:
    touch(root, "a.mp4", "b.mp4", "c, d.mp4")
    path = root / "videos.csv"
    path.write_text(
        'group,path,label,split\ns1,a.mp4,left,train\n\n,b.mp4,,val\ns2,"c, d.mp4",left;up,\n'
    )
    assert read_csv(path).videos == [
        Annotation(root / "a.mp4", ("left",), "s1", "train"),
        Annotation(root / "b.mp4", (), "", "val"),
        Annotation(root / "c, d.mp4", ("left", "up"), "s2", ""),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,lable\na.mp4,x\n", r"v\.csv:1: column 'label' is missing"),
        ("path,label,gruop\na.mp4,x,\n", r"v\.csv:1: column 'gruop' is not known; did you mean"),
        ("path,label,path\na.mp4,x,y\n", r"v\.csv:1: a column stands twice"),
        ("path,label\na.mp4\n", r"v\.csv:2: 1 values where the header has 2 columns"),
        ("path,label\n,x\n", r"v\.csv:2: the path is empty"),
        ("path,label\na.mp4,x\nb.mp4,x\n", r"v\.csv:3: no such file: .*b\.mp4"),
        ("path,label\na.mp4,x\na.mp4,y\n", r"v\.csv:3: .*stands already in line 2"),
        ("path,label\n", r"v\.csv: no rows in it"),
        ("", r"v\.csv:1: column 'path' is missing"),
        ('path,label\n"a.mp4,x\n', r"v\.csv:2: not readable as CSV"),
    ],
)
def test_bad_csv(text: str, why: str, root: Path) -> None:
    touch(root, "a.mp4")
    path = root / "v.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=why):
        read_csv(path)


def test_default_classes_are_sorted_numbers_by_value() -> None:
    def named(*names: str) -> list[Annotation]:
        return [Annotation(Path(f"/{i}"), (name,)) for i, name in enumerate(names)]

    assert list(default_classes(named("b", "a", "b"))) == ["a", "b"]
    assert list(default_classes(named("10", "9", "1"))) == ["1", "9", "10"]
    with pytest.raises(UserError, match="none of the videos has a label"):
        default_classes([Annotation(Path("/a"), ())])

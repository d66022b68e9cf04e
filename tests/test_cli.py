"""The command line as scripts use it: documents, exit statuses, one plain line for a mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call
from tiny_recipes import recipe, student_recipe

from videokd.data.index import Index


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def assert_one_plain_line(err: str, *words: str) -> None:
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("videokd: ")
    for word in words:
        assert word in err


@pytest.fixture
def run_copy(tiny_control: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_control, tmp_path / "control"))


def test_index_train_eval_bench_report_predict(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One's own videos, as the README tells it."""
    videos = tiny_index.path.parent
    index = tmp_path / "mine.csv"
    status, out, _ = call(capsys, "data", "index", videos, "--out", index)
    assert (status, out) == (0, f"48 videos, 12 classes: {index}\n")
    path = write_recipe(tmp_path / "control.yaml", recipe(index, tmp_path / "run"))
    status, out, err = call(capsys, "train", path, "train.epochs=1", "--device", "cpu")
    assert status == 0, err
    assert "3 steps, best validation top-1" in out
    status, out, _ = call(capsys, "eval", tmp_path / "run", "--json", "--device", "cpu")
    document = json.loads(out)
    assert status == 0
    assert document["num_videos"] == 12
    assert json.loads((tmp_path / "run" / "eval.json").read_text()) == document
    status, out, _ = call(capsys, "bench", tmp_path / "run", "--quick", "--json", "--device", "cpu")
    (result,) = json.loads(out)
    assert result["role"] == "control"
    assert result["top1_pct"] == document["top1_pct"]
    status, out, err = call(capsys, "report", tmp_path / "run", "--out", tmp_path / "report")
    assert status == 0, err
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "report.html", "pareto.png", "results.json", "results.csv"}
    video = next(videos.rglob("test/*/*.mp4"))
    status, out, _ = call(capsys, "predict", tmp_path / "run", video, "--json", "--topk", 3)
    (prediction,) = json.loads(out)
    scores = [row["score"] for row in prediction["topk"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert prediction["path"] == str(video)


def test_index_says_what_is_absent(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tiny_index.records[0].path
    (tmp_path / "list.txt").write_text(f"{video.name} 7 wave\nnothing.mp4 7 wave\n")
    index = tmp_path / "mine.csv"
    arguments = ("data", "index", video.parent, "--format", "something", "--out", index)
    status, _, err = call(capsys, *arguments, "--list", f"val={tmp_path / 'list.txt'}")
    assert status == 1
    assert_one_plain_line(err, "list.txt:2: no such file", "nothing.mp4")
    status, out, err = call(
        capsys, *arguments, "--list", f"val={tmp_path / 'list.txt'}", "--allow-absent"
    )
    assert status == 0
    assert out == f"1 videos, 1 classes: {index}\n1 absent: {tmp_path / 'mine.absent.csv'}\n"
    assert f"the first: {video}: 12, not 7" in err


def test_json_stands_alone_on_stdout(
    tiny_control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(capsys, "eval", tiny_control, "--json", "--device", "cpu")
    assert status == 0
    assert set(json.loads(out)) >= {
        "protocol", "num_videos", "num_views", "top1_pct", "top5_pct", "mean_class_pct",
        "interval_pct", "per_class", "confusion",
    }  # fmt: skip
    assert "evaluate control" in err


def test_predictions_are_probabilities_of_the_whole(
    tiny_control: Path, tiny_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tiny_index.records[0].path
    _, out, _ = call(capsys, "predict", tiny_control, video, "--topk", 99, "--json")
    (prediction,) = json.loads(out)
    assert len(prediction["topk"]) == 12
    assert sum(row["score"] for row in prediction["topk"]) == pytest.approx(1, abs=1e-5)
    assert {row["label"] for row in prediction["topk"]} == set(tiny_index.classes)


def test_predict_says_the_same_as_eval(
    tiny_control: Path, tiny_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unindexed file goes another way to the network than an indexed one; the answer is one."""
    videos = [tiny_index.records[i].path for i in tiny_index.select("test")]
    labels = [tiny_index.records[i].labels[0] for i in tiny_index.select("test")]
    _, out, _ = call(capsys, "predict", tiny_control, *videos, "--topk", 1, "--json")
    best = [prediction["topk"][0]["label"] for prediction in json.loads(out)]
    right = sum(name == tiny_index.classes[label] for name, label in zip(best, labels, strict=True))
    document = json.loads((tiny_control / "eval.json").read_text(encoding="utf-8"))
    assert document["top1_pct"] == pytest.approx(100 * right / 12)


def test_two_batch_sizes_two_results(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "bench", run_copy, "--batch", "1,2", "--quick", "--json")
    assert [result["batch"] for result in json.loads(out)] == [1, 2]


def test_data_show_draws_student_and_teacher(
    tiny_control: Path,
    tiny_index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The teacher's input comes out of its checkpoint."""
    sheets: list[tuple[Any, ...]] = []

    def remember(rows: Any, path: Path, *, title: str, notes: Any) -> None:
        sheets.append((rows, title, notes))

    monkeypatch.setattr("videokd.data.show.write_sheet", remember)
    path = write_recipe(
        tmp_path / "student.yaml", student_recipe(tiny_index, tmp_path / "run", tiny_control)
    )
    sheet = tmp_path / "sheet.png"
    status, out, err = call(
        capsys, "data", "show", tiny_index.path, "--recipe", path, "--out", sheet, "--videos", 2
    )
    assert (status, out) == (0, f"2 videos: {sheet}\n"), err
    ((rows, title, notes),) = sheets
    assert title == "student.yaml: training, from step 0"
    assert "teacher: dense (num_frames 4, stride 2, past_end clamp), 32 of 32 px" in notes[0]
    for row in rows:
        student, teacher = row.strips
        assert (student.title[:8], teacher.title[:8]) == ("student:", "teacher:")
        assert (student.frames == teacher.frames).all()  # equal samplings, same frames


def test_unknown_key(tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["train"]["optim"]["weigth_decay"] = 0.1
    path = write_recipe(tmp_path / "r.yaml", settings)
    status, out, err = call(capsys, "train", path)
    assert (status, out) == (2, "")
    assert_one_plain_line(err, "train.optim.weigth_decay", "did you mean 'weight_decay'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("train", "no.yaml"), 2, ("no.yaml", "no such recipe")),
        (("eval", "nothing"), 1, ("nothing", "no such checkpoint")),
        (("predict", "{run}", "no.mp4"), 1, ("no.mp4",)),
        (("predict", "{run}", "{text}"), 1, ("text.mp4", "cannot be read as a video")),
        (("eval", "{run}", "--split", "tset"), 1, ("no video is in split 'tset'", "test: 12")),
        (("eval", "{run}", "--num-crops", "2"), 2, ("num_crops",)),
        (("eval", "{run}", "--protocol", "pyslowfast_10x2"), 2, ("did you mean", "10x3")),
        (("eval", "{run}", "--protocol", "tsm_uniform_1x1"), 2, ("is for segment sampling",)),
        (
            ("eval", "{run}", "--protocol", "pyslowfast_10x3", "--num-clips", "2"),
            2,
            ("eval", "give one of the two"),
        ),
        (("eval", "{text}"), 1, ("text.mp4", "not a readable checkpoint")),
        (("bench", "{run}", "--batch", "one"), 2, ("--batch 'one'", "whole number")),
        (("report", "{new}", "--out", "report"), 1, ("no bench.json yet", "videokd bench")),
        (("data", "index", "{empty}", "--out", "x.csv"), 1, ("empty", "no videos")),
        (("data", "index", "nowhere", "--out", "x.csv"), 1, ("nowhere", "no such folder")),
        (("data", "index", "{empty}", "--out", "x.csv", "--list", "a"), 2, ("SPLIT=FILE",)),
        (("data", "index", "{videos}", "--out", "x.csv", "--ratio", "3"), 2, ("3:1:1",)),
        (("data", "index", "{videos}", "--out", "x.csv", "--ratio", "0:0:0"), 2, ("3:1:1",)),
        (("data", "index", "{videos}", "--out", "x.csv", "--format", "ucf101"), 2, ("needs --a",)),
        (("data", "index", "{videos}", "--out", "x.csv", "--format", "ucf"), 2, ("'ucf101'",)),
        (("data", "index", "{videos}", "--out", "x.csv", "--frames-fps", "0"), 2, ("above 0",)),
        (("folds", "no.yaml"), 2, ("no.yaml", "no such recipe")),
        (
            ("data", "index", "{videos}", "--out", "x.csv", "--group-pattern", "("),
            2,
            ("'('", "no regular expression"),
        ),
        (
            ("data", "index", "x", "--out", "y", "--format", "kinetic"),
            2,
            ("'--format': 'kinetic' is not one of 'folder',", "data index --help"),
        ),
        (("trian", "x.yaml"), 2, ("No such command 'trian'", "'train'", "--help")),
        (("eval", "{run}", "--num-clip", "2"), 2, ("--num-clip", "--num-clips", "eval --help")),
        (("eval",), 2, ("Missing argument",)),
        (("data", "show", "no.csv", "--out", "s.jpg"), 2, ("s.jpg", "ends in .png")),
        (("data", "show", "no.csv", "--out", "s.png"), 1, ("no.csv",)),
        (("data", "show", "no.csv", "--out", "s.png", "--set", "a=1"), 2, ("give one with",)),
        (
            ("data", "show", "no.csv", "--out", "s.png", "--protocol", "pyslowfast"),
            2,
            ("protocol 'pyslowfast' is not known", "did you mean"),
        ),
        (("data", "synth", "{empty}", "--set", "noise=3"), 2, ("unknown key 'noise'", "noise_std")),
    ],
)
def test_a_mistake_is_one_plain_line(
    tiny_index: Index,
    run_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    words: tuple[str, ...],
) -> None:
    work = tmp_path / "work"
    for folder in ("empty", "new", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "text.mp4").write_text("no video")
    places = {
        "run": run_copy,
        "text": tmp_path / "text.mp4",
        "empty": tmp_path / "empty",
        "new": tmp_path / "new",
        "videos": tiny_index.path.parent,
    }
    got, out, err = call(capsys, *(argument.format(**places) for argument in arguments))
    assert (got, out) == (status, ""), err
    assert_one_plain_line("\n".join(_without_progress(err)), *words)
    assert list(work.iterdir()) == []
    assert list((tmp_path / "empty").iterdir()) == []


def _without_progress(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("videokd: ") or "Error" in line]


def bad_index(tiny_index: Index, tmp_path: Path, old: str, new: str) -> Path:
    """The tiny index beside its videos' absolute paths, with the first `old` made `new`."""
    header, *rows = tiny_index.path.read_text(encoding="utf-8").splitlines()
    rows = [header, *sorted(rows, reverse=True)]  # the training videos first
    text = "\n".join([rows[0], *(f"{tiny_index.path.parent}/{row}" for row in rows[1:])])
    assert old in text
    path = tmp_path / "bad.csv"
    path.write_text(text.replace(old, new, 1) + "\n", encoding="utf-8")
    shutil.copy(tiny_index.path.with_suffix(".classes.txt"), tmp_path / "bad.classes.txt")
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",grow,", ",grwo,", ("bad.csv:", "'grwo' is not one of the 12", "did you mean 'grow'")),
        (",grow,", ",,", ("bad.csv:", "has no label")),
        ("path,label", "path,lable", ("bad.csv:1", "label")),
    ],
)
def test_a_bad_index_is_named_by_line(
    tiny_index: Index,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    words: tuple[str, ...],
) -> None:
    path = bad_index(tiny_index, tmp_path, old, new)
    settings = recipe(path, tmp_path / "run")
    status, _, err = call(capsys, "train", write_recipe(tmp_path / "r.yaml", settings))
    assert status == 1
    assert_one_plain_line(err, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_video_is_named_by_line(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad_index(tiny_index, tmp_path, "00000.mp4", "99999.mp4")
    settings = recipe(path, tmp_path / "run")
    status, _, err = call(capsys, "train", write_recipe(tmp_path / "r.yaml", settings))
    assert status == 1
    assert_one_plain_line(err, "bad.csv:", "no such file", "99999.mp4")
    assert not (tmp_path / "run").exists()


def test_evaluation_stops_at_an_unreadable_video(
    tiny_index: Index,
    run_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A test video that went bad after the scan."""
    from videokd.data.loading import clips

    bad = tiny_index.records[tiny_index.select("test")[5]].path
    original = clips.open_video

    def open_video(path: Any, *arguments: Any, **named: Any) -> Any:
        if Path(path) == bad:
            path = tmp_path / "gone.mp4"
            path.write_bytes(b"x")
        return original(path, *arguments, **named)

    monkeypatch.setattr(clips, "open_video", open_video)
    before = (run_copy / "eval.json").read_bytes()
    status, out, err = call(capsys, "eval", run_copy, "--device", "cpu")
    assert (status, out) == (1, "")
    assert_one_plain_line("\n".join(_without_progress(err)), "gone.mp4", "cannot be read")
    assert (run_copy / "eval.json").read_bytes() == before


def test_a_checkpoint_that_does_not_fit(
    tiny_index: Index, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(tiny_index, tmp_path / "run", init={"weights": str(tiny_teacher)})
    status, _, err = call(capsys, "train", write_recipe(tmp_path / "r.yaml", settings))
    assert status == 1
    assert_one_plain_line(err, "best.pt", "is the checkpoint of another network")
    assert not (tmp_path / "run").exists()


def test_accuracy_on_other_videos_does_not_reach_the_report(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "eval", run_copy, "--split", "train", "--device", "cpu")[0] == 0
    assert json.loads((run_copy / "eval.best.train.json").read_text())["num_videos"] == 24
    assert json.loads((run_copy / "eval.json").read_text())["num_videos"] == 12
    assert call(capsys, "bench", run_copy, "--quick", "--device", "cpu")[0] == 0
    document = json.loads((run_copy / "eval.json").read_text())
    (run_copy / "eval.json").write_text(json.dumps(document | {"checkpoint_step": 1}))
    status, _, err = call(capsys, "report", run_copy, "--out", tmp_path / "report")
    assert status == 1
    assert_one_plain_line(err, "eval.json: is of weights that best.pt no longer holds")
    (run_copy / "eval.json").write_text("{")
    status, _, err = call(capsys, "report", run_copy, "--out", tmp_path / "report")
    assert status == 1
    assert_one_plain_line(err, "eval.json: not an evaluation of ours", "videokd eval")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_said_first(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    path = write_recipe(tmp_path / "r.yaml", recipe(tiny_index, tmp_path / place))
    status, _, err = call(capsys, "train", path)
    assert status == 1
    assert_one_plain_line(err, str(tmp_path / "file"))
    status, _, err = call(
        capsys, "data", "index", tiny_index.path.parent, "--out", tmp_path / "file" / "x.csv"
    )
    assert status == 1
    assert_one_plain_line(err, "cannot be written")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_split_has_one_list(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(
        capsys, "data", "index", tiny_index.path.parent, "--out", tmp_path / "x.csv",
        "--list", "train=a.txt", "--list", "train=b.txt",
    )  # fmt: skip
    assert status == 2
    assert_one_plain_line(err, "--list train=... is given twice")


def test_an_index_is_not_replaced_unasked(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_csv = tmp_path / "x.csv"
    out_csv.write_text("mine")
    arguments = ("data", "index", tiny_index.path.parent / "val", "--out", out_csv)
    status, _, err = call(capsys, *arguments)
    assert status == 1
    assert_one_plain_line(err, "is there already", "--force")
    assert out_csv.read_text() == "mine"
    assert call(capsys, *arguments, "--force")[0] == 0
    assert len(out_csv.read_text().splitlines()) == 13


def test_groups_and_lists(
    tiny_index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lists, then one group moved to validation."""
    videos = sorted((tiny_index.path.parent / "train").rglob("*.mp4"))[:8]
    root = tiny_index.path.parent
    for name, part in (("train", videos[:6]), ("test", videos[6:])):
        lines = [f"{video.relative_to(root)} {video.parent.name}" for video in part]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    group = videos[0].stem
    status, out, err = call(
        capsys, "data", "index", root, "--out", tmp_path / "x.csv",
        "--list", f"train={tmp_path}/train.txt", "--list", f"test={tmp_path}/test.txt",
        "--group-pattern", r"(\d+)$", "--val-group", group,
    )  # fmt: skip
    assert status == 0, err
    assert "8 videos" in out
    rows = (tmp_path / "x.csv").read_text().splitlines()[1:]
    splits = [row.split(",")[8] for row in rows]
    assert splits == ["val", *["train"] * 5, "test", "test"]

"""Accuracy rows, end to end: real videos, trained networks, PASS, FAIL and each reason to SKIP."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from tiny_recipes import as_config, recipe, student_settings

from videokd.checkpoint import load_checkpoint
from videokd.cli import main
from videokd.errors import UserError
from videokd.experiments.reproduce import Given, Table, reproduce_accuracy
from videokd.metrics import wilson_interval_pct
from videokd.models.catalog import CATALOG
from videokd.types import InputSpec

SEGMENTS = {
    "sampling": {"kind": "segment", "num_segments": 4},
    "short_side_px": 32,
    "crop_px": 32,
}
NUM_VIDEOS = 12


@pytest.fixture(scope="session")
def segment_run(tiny_index, tmp_path_factory):
    """A trained student whose sampling a named protocol knows, and its measured accuracy."""
    from videokd.runs import train

    out = tmp_path_factory.mktemp("segments") / "net"
    settings = recipe(tiny_index, out, model=student_settings(input=SEGMENTS))
    train(as_config(settings), device="cpu", quiet=True)
    return out


@pytest.fixture(scope="session")
def top1_pct(tiny_index, segment_run):
    """What `videokd eval` says of it under the same protocol."""
    from videokd.engine.evaluate import EvalConfig
    from videokd.runs import evaluate

    views = EvalConfig(protocol="tsm_uniform_1x1")
    document = evaluate(segment_run, eval_config=views, device="cpu", quiet=True)
    assert document["num_videos"] == NUM_VIDEOS
    return document["top1_pct"]


def row(**changes):
    return {
        "name": "net",
        "settings": student_settings(input=SEGMENTS),
        "num_classes": 12,
        "input": {"num_frames": 4, "crop_px": 32},
        "dataset": "made",
        "views": "1x1",
        "protocol": "tsm_uniform_1x1",
        "num_videos": 20,
        "top1_pct": 50.0,
        "top1_tolerance_pct": 0.25,
    } | changes


def table(*rows):
    return Table.model_validate({"name": "mine", "source": "https://x", "rows": rows or (row(),)})


def given(**changes):
    return Given(**({"device": "cpu", "num_workers": 0, "quiet": True} | changes))


def outcomes(*rows, **changes):
    return reproduce_accuracy({"mine": table(*rows)}, given(**changes))


def test_an_accuracy_in_the_interval_passes_with_its_stamp(tiny_index, segment_run, top1_pct):
    low, high = wilson_interval_pct(round(top1_pct * NUM_VIDEOS / 100), NUM_VIDEOS)
    (outcome,) = outcomes(row(top1_pct=high + 0.2), index=tiny_index.path, weights=segment_run)
    assert outcome.status == "PASS"
    assert outcome.measured == top1_pct
    assert (outcome.quantity, outcome.convention) == ("top1_pct", "tsm_uniform_1x1")
    assert outcome.tolerance == 0.25
    assert f"[{low - 0.25:.2f}, {high + 0.25:.2f}]" in outcome.reason
    assert "12 of 20 videos of split test, protocol tsm_uniform_1x1" in outcome.reason
    assert str(segment_run) in outcome.reason


def test_one_outside_fails_with_both_numbers(tiny_index, segment_run, top1_pct):
    _, high = wilson_interval_pct(round(top1_pct * NUM_VIDEOS / 100), NUM_VIDEOS)
    (outcome,) = outcomes(row(top1_pct=high + 0.3), index=tiny_index.path, weights=segment_run)
    assert (outcome.status, outcome.measured) == ("FAIL", top1_pct)
    assert f"{high + 0.3:g} is outside [" in outcome.reason
    assert f"the 95 % interval of {top1_pct:.2f} widened by 0.25" in outcome.reason


def test_a_bare_file_is_tested_as_the_row_says(tiny_index, segment_run, top1_pct, tmp_path):
    """The weights alone, with the row's settings and input: the same accuracy."""
    file = tmp_path / "net.pth"
    torch.save({"state_dict": load_checkpoint(segment_run / "best.pt")["model"]}, file)
    (outcome,) = outcomes(index=tiny_index.path, weights=file)
    assert outcome.measured == top1_pct
    assert str(file) in outcome.reason


def test_a_folder_serves_the_rows_by_their_names(tiny_index, segment_run, top1_pct, tmp_path):
    shutil.copytree(segment_run, tmp_path / "net")
    torch.save(load_checkpoint(segment_run / "best.pt")["model"], tmp_path / "file.pth")
    rows = row(), row(name="file"), row(name="absent")
    found = outcomes(*rows, index=tiny_index.path, weights=tmp_path)
    assert [one.measured for one in found] == [top1_pct, top1_pct, None]
    assert found[2].status == "SKIP"
    assert "a folder that holds 'absent'" in found[2].reason


def test_other_splits_can_be_asked_for(tiny_index, segment_run):
    (outcome,) = outcomes(index=tiny_index.path, weights=segment_run, split="train")
    assert "24 of 20 videos of split train" in outcome.reason


def test_a_number_of_videos_that_nobody_says_is_not_made_up(tiny_index, segment_run):
    (outcome,) = outcomes(row(num_videos=None), index=tiny_index.path, weights=segment_run)
    assert "; 12 videos of split test, " in outcome.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {},
            "under 'A folder per class', then `videokd reproduce mine --row net --index INDEX.csv`",
        ),
        ({"dataset": "something_v2"}, "needs the videos of something_v2: lay them out"),
        ({"dataset": "something_v2"}, "under 'Something-Something v2'"),
        ({}, "weights: give --weights FILE_OR_RUN, no file of this very row is known"),
        ({"protocol": None}, "its views (1x1) are none of the named protocols"),
        ({"protocol": None, "note": "squeezed"}, "see `videokd eval --help`; squeezed"),
    ],
)
def test_without_videos_skip_says_how_to_get_them(changes, reason):
    (outcome,) = outcomes(row(**changes))
    assert (outcome.status, outcome.measured) == ("SKIP", None)
    assert reason in outcome.reason


def catalogue_row(**changes):
    """A row whose published file is known: the catalogue's own numbers."""
    entry = CATALOG["x3d_m"]
    plain = {
        "name": "x3d_m",
        "model": "x3d_m",
        "settings": {},
        "num_classes": 400,
        "dataset": "kinetics400",
        "protocol": entry.published.protocol,
        "top1_pct": entry.published.top1_pct,
        "input": {"num_frames": 16, "crop_px": 256},
    }
    return row(**(plain | changes))


def test_without_videos_skip_names_the_published_file():
    (outcome,) = outcomes(catalogue_row())
    assert f"weights: {CATALOG['x3d_m'].weights.url}, downloaded by itself" in outcome.reason
    assert "under 'Kinetics-400, -600, -700'" in outcome.reason


@pytest.mark.parametrize("changes", [{"top1_pct": 76.2}, {"dataset": "something_v2"}])
def test_weights_of_another_row_are_not_taken_for_this_one(changes):
    """PySlowFast's X3D-M is the same network as PyTorchVideo's, with other weights."""
    (outcome,) = outcomes(catalogue_row(**changes))
    assert "no file of this very row is known" in outcome.reason


def test_an_index_of_other_classes_is_not_the_data_set(tiny_index, segment_run):
    (outcome,) = outcomes(row(num_classes=400), index=tiny_index.path, weights=segment_run)
    assert outcome.status == "SKIP"
    assert "has 12 classes, the row is of made with 400; give the index of made" in outcome.reason


def test_without_weights_skip_says_what_to_give(tiny_index):
    (outcome,) = outcomes(index=tiny_index.path)
    assert outcome.status == "SKIP"
    assert "no published file of this very row is known; give --weights" in outcome.reason


def test_a_download_that_fails_is_a_skip(tiny_index, monkeypatch):
    """With the address, and where to put the file by hand."""
    import videokd.first_weights

    def fail(entry, **_):
        raise UserError(f"{entry.weights.url}: no answer; put it into the folder yourself")

    monkeypatch.setattr(videokd.first_weights, "published_weights", fail)
    (outcome,) = outcomes(catalogue_row(num_classes=12), index=tiny_index.path)
    assert outcome.status == "SKIP"
    assert outcome.reason.endswith("X3D_M.pyth: no answer; put it into the folder yourself")


def test_a_file_for_a_network_of_unknown_input_is_a_skip(tiny_index, segment_run):
    settings = {key: value for key, value in student_settings().items() if key != "input"}
    file = segment_run / "best.pt"
    (outcome,) = outcomes(row(settings=settings), index=tiny_index.path, weights=file)
    assert outcome.status == "SKIP"
    assert "neither a model of `videokd models` nor settings.input" in outcome.reason
    (without,) = outcomes(row(settings=settings))
    assert "weights: give --weights RUN, a run folder of ours" in without.reason


def test_files_that_are_there_and_cannot_be_used_are_errors(tiny_index, segment_run, tmp_path):
    with pytest.raises(UserError, match="no such file or folder of weights"):
        outcomes(index=tiny_index.path, weights=tmp_path / "absent")
    with pytest.raises(UserError, match="is one network's weights, and 2 rows are asked for"):
        outcomes(row(), row(name="other"), index=tiny_index.path, weights=segment_run)
    with pytest.raises(UserError, match=r"nowhere\.csv: cannot be read"):
        outcomes(index=tmp_path / "nowhere.csv", weights=segment_run)
    wide = row(settings=student_settings(input=SEGMENTS, backbone_kwargs={}))
    with pytest.raises(UserError, match=r"best\.pt: "):
        outcomes(wide, index=tiny_index.path, weights=segment_run / "best.pt")


def test_a_run_of_other_classes_is_refused(tiny_index, segment_run, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(tiny_index.path.parent, folder)
    for file in (path for path in folder.iterdir() if path.suffix in (".csv", ".txt")):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(tiny_index.classes[0], "stranger"), encoding="utf-8")
    with pytest.raises(UserError, match="was trained for other classes"):
        outcomes(index=folder / tiny_index.path.name, weights=segment_run)


def test_a_run_of_another_network_is_not_the_rows(tiny_index, segment_run):
    other = student_settings(input=SEGMENTS, temporal={"kind": "none"})
    with pytest.raises(UserError, match=r"net: is another network than .* 'net': its temporal is"):
        outcomes(row(settings=other), index=tiny_index.path, weights=segment_run)
    with pytest.raises(UserError, match="its kind is 'timm', the row's 'x3d'; give a run of the"):
        outcomes(row(settings={}, model="x3d_m"), index=tiny_index.path, weights=segment_run)


def test_how_a_run_was_trained_does_not_make_it_another_network(tiny_index, segment_run, top1_pct):
    settings = student_settings(input=SEGMENTS) | {"dropout": 0.4}
    settings["backbone_kwargs"] = settings["backbone_kwargs"] | {"zero_init_last": True}
    (outcome,) = outcomes(row(settings=settings), index=tiny_index.path, weights=segment_run)
    assert outcome.measured == top1_pct


def test_a_file_is_held_to_the_published_order_of_classes(tiny_index, segment_run):
    """It does not say its classes, but the row says its data set."""
    file = segment_run / "best.pt"
    with pytest.raises(UserError, match=r"published kinetics400 has 400 .* give the index of kine"):
        outcomes(row(dataset="kinetics400"), index=tiny_index.path, weights=file)


def test_only_files_of_weights_are_taken_from_a_folder(tiny_index, segment_run, top1_pct, tmp_path):
    (tmp_path / "net.csv").write_text("path,label\n", encoding="utf-8")
    torch.save(load_checkpoint(segment_run / "best.pt")["model"], tmp_path / "net.pth")
    (outcome,) = outcomes(index=tiny_index.path, weights=tmp_path)
    assert outcome.measured == top1_pct


def test_a_protocol_that_does_not_suit_the_network_is_an_error(tiny_index, segment_run):
    with pytest.raises(UserError, match="protocol pytorchvideo_10x3 is for"):
        outcomes(row(protocol="pytorchvideo_10x3"), index=tiny_index.path, weights=segment_run)


def test_rows_without_an_accuracy_have_no_outcome():
    assert outcomes(row(top1_pct=None, gops=1.0)) == []


def test_the_command_runs_both_kinds_of_rows(tiny_index, segment_run, top1_pct, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    document = {"name": "mine", "source": "https://x", "rows": [row(top1_pct=top1_pct)]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    arguments = ["reproduce", str(path), "--json", "--device", "cpu", "--num-workers", "0"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--index", str(tiny_index.path), "--weights", str(segment_run)])
    captured = capsys.readouterr()
    (outcome,) = json.loads(captured.out)
    assert (outcome["status"], outcome["measured"]) == ("PASS", top1_pct)
    assert "evaluate net: 12/12" in captured.err
    document["rows"][0]["gops"] = 1000.0
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    statuses = [one["status"] for one in json.loads(capsys.readouterr().out)]
    assert statuses == ["FAIL", "SKIP"]


def test_the_input_of_the_tiny_row_is_a_whole_spec():
    assert InputSpec.model_validate(SEGMENTS).num_frames == 4

"""What a table may say, and how tables are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from videokd.cli import main
from videokd.errors import ConfigError
from videokd.experiments.reproduce.tables import (
    all_tables,
    find_tables,
    load_table,
    network_settings,
)

ROW = {
    "name": "net",
    "model": "x3d_m",
    "input": {"num_frames": 16, "crop_px": 224},
    "gops": 4.73,
}


def written(folder: Path, **changes) -> Path:
    row = {key: value for key, value in (ROW | changes).items() if value is not None}
    path = folder / "mine.yaml"
    document = {"name": "mine", "source": "https://example.org", "rows": [row]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_table_is_read(tmp_path):
    (row,) = load_table(written(tmp_path)).rows
    assert (row.name, row.gops, row.num_classes, row.convention) == ("net", 4.73, 400, "mac")
    assert row.allowed_gops == pytest.approx(0.00473)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gopps": 1.0}, r"unknown key 'rows.0.gopps'; did you mean 'gops'\?"),
        ({"input": {"num_frames": 16, "crop": 224}}, r"did you mean 'crop_px'\?"),
        ({"convention": "flops"}, "rows.0.convention: Input should be 'mac'"),
        ({"gops": -1}, "rows.0.gops: Input should be greater than 0"),
        ({"gops": None}, "row 'net' has no published number"),
        ({"model": "x3d_mm"}, r"row 'net': no network is named 'x3d_mm'; did you mean 'x3d_m'\?"),
        (
            {"top1_pct": 76.2, "dataset": "kinetics400", "protocol": "pyslowfst_10x3"},
            r"row 'net': protocol 'pyslowfst_10x3' is not known; did you mean 'pyslowfast_10x3'\?",
        ),
        ({"model": None}, "row 'net' needs a model, or settings with a kind"),
        ({"top1_pct": 76.2}, "row 'net' has a top1_pct and no dataset that it is on"),
        (
            {"known_errors": [{"quantity": "gops", "what": "wrong"}]},
            "a known error needs its evidence",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_its_place(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as error:
        load_table(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_two_rows_of_one_name_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    document = {"name": "mine", "source": "https://example.org", "rows": [ROW, ROW]}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match="two rows are named 'net'"):
        load_table(path)


def test_a_row_takes_the_catalogues_settings_at_its_own_input(tmp_path):
    (row,) = load_table(written(tmp_path, settings={"dropout": 0.1})).rows
    settings = network_settings(row)
    assert settings["kind"] == "x3d"
    assert settings["dropout"] == 0.1
    assert settings["input"]["sampling"]["num_frames"] == 16
    assert settings["input"]["crop_px"] == 224
    assert settings["input"]["short_side_px"] >= 224


def test_a_segment_sampled_network_gets_as_many_segments(tmp_path):
    changes = {"model": "tsm_mobilenetv2", "input": {"num_frames": 12, "crop_px": 96}}
    (row,) = load_table(written(tmp_path, **changes)).rows
    sampling = network_settings(row)["input"]["sampling"]
    assert (sampling["kind"], sampling["num_segments"]) == ("segment", 12)


@pytest.mark.parametrize(
    "given",
    [
        3,
        "dense",
        {"sampling": "dense"},
        {"sampling": {"num_frames": 4}},
        {"short_side_px": "big"},
        {"short_side_px": None},
    ],
)
def test_an_input_that_is_none_fails_with_the_reason(tmp_path, capsys, given):
    changes = {"model": None, "settings": {"kind": "x3d", "input": given}}
    path = written(tmp_path, **changes)
    with pytest.raises(SystemExit, match="1"):
        main(["reproduce", str(path), "--quiet"])
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"FAIL  mine/net gops [mac]: published 4.73; {path}/net: model.input")
    assert out.endswith("0 PASS, 1 FAIL, 0 SKIP\n")


def test_a_row_that_is_wrong_is_one_fault(tmp_path):
    with pytest.raises(ConfigError, match=r"should be greater than 0 \(given -1\)$"):
        load_table(written(tmp_path, params_tolerance_m=-1))


def test_a_table_without_rows_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsource: https://example.org\nrows: []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="rows: a table has at least one row"):
        load_table(path)


def test_tables_are_found_by_name_by_path_and_all(tmp_path, monkeypatch):
    path = written(tmp_path)
    assert list(find_tables(str(path))) == [str(path)]
    assert list(find_tables("torchvision")) == ["torchvision"]
    assert find_tables("zoo") == all_tables()
    with pytest.raises(ConfigError, match="'torchvison'; did you mean 'torchvision'"):
        find_tables("torchvison")
    monkeypatch.chdir(tmp_path)
    assert "torchvision" in find_tables("zoo"), "those of the checkout, from any folder"
    (tmp_path / "configs" / "tables").mkdir(parents=True)
    path.rename(tmp_path / "configs" / "tables" / "mine.yaml")
    assert list(find_tables("zoo")) == ["mine"], "those of the current folder come first"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["torchvison"], "2", "no table is named 'torchvison'; did you mean 'torchvision'?"),
        (["torchvision", "--row", "s4d"], "2", "no row is named 's4d'; did you mean 's3d'?"),
        (["zoo", "--index", "x.csv"], "2", "zoo checks sizes only; name a table"),
        (["nowhere.yaml"], "2", "nowhere.yaml: no such recipe file"),
    ],
)
def test_mistakes_are_one_plain_line(arguments, status, message, capsys):
    with pytest.raises(SystemExit, match=status):
        main(["reproduce", *arguments])
    error = capsys.readouterr().err
    assert error.startswith(f"videokd: {message}")
    assert error.count("\n") == 1


def test_help_starts_without_torch():
    code = (
        "import sys\n"
        "from videokd.cli import main\n"
        "try:\n    main(['reproduce', '--help'])\n"
        "except SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_skip_names_the_table_as_the_command_has_to(tmp_path, capsys):
    accuracy = {"top1_pct": 76.2, "dataset": "kinetics400", "protocol": "pyslowfast_10x3"}
    path = written(tmp_path, gops=None, **accuracy)
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", str(path), "--quiet"])
    out = capsys.readouterr().out
    assert f"`videokd reproduce {path} --row net --index INDEX.csv`" in out

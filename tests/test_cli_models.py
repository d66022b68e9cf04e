"""`videokd models` as people and scripts use it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import call

from videokd.config import parse_config
from videokd.models.catalog import CATALOG, entry
from videokd.types import InputSpec


def test_json_has_every_network_with_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "models", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == list(CATALOG)
    keys = ["name", "family", "role", "params_m", "gmacs_per_view", "input", "top1_pct", "source"]
    for row in rows:
        assert list(row) == keys
        assert row["role"] in ("teacher", "student")
        spec = parse_config(InputSpec, row["input"], source=row["name"])
        assert spec == entry(row["name"]).config().input
    by_name = {row["name"]: row for row in rows}
    assert by_name["slowfast_r50_8x8"]["top1_pct"] == 76.94
    assert by_name["slowfast_r50_8x8"]["gmacs_per_view"] == pytest.approx(65.71, abs=0.01)
    assert by_name["gru_r50"]["top1_pct"] is None
    assert by_name["gru_r50"]["source"] is None


def test_table_has_a_line_a_network_under_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "models")
    assert status == 0
    lines = out.splitlines()
    cells = [line.split() for line in lines]
    assert ["tsm_r50", "24.33", "32.70", "8x224", "73.18", "kinetics400", "1x10"] in cells
    assert ["tsm_lcnet", "2.19", "1.24", "8x224", "-"] in cells
    for name in CATALOG:
        assert sum(row[:1] == [name] for row in cells) == 1
    headings = [line for line in lines if line.endswith(("(teachers)", "(students)"))]
    assert len(headings) == len(set(headings)), "a family stands together"
    assert lines.index("mvit (teachers)") < lines.index("tsm (students)")
    assert max(map(len, lines)) <= 90


def test_one_network_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "models", "s3d")
    assert status == 0
    for text in (
        "128 frames over 8.533 s",
        "shorter side 256 px, crop 224 px",
        "top-1 68.37 %, top-5 88.05 % on kinetics400, 1x1 views",
        "17.98 G operations a view, counted as mac",
        "https://download.pytorch.org/models/s3d-d76dad2f.pth (torchvision, SHA-256 d76dad2f...)",
        "resize all frames to 256x256",
        "model: {preset: s3d}",
        "init: {weights: s3d, replace_head: true}",
    ):
        assert text in out


def test_one_without_published_weights_offers_none(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "models", "gru_r50")
    assert "nothing: train it" in out
    assert "init:" not in out
    _, out, _ = call(capsys, "models", "slow_r50_8x8_ssv2")
    assert "none that load" in out
    assert "init:" not in out


def test_one_network_as_json_is_a_list_too(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "models", "x3d_s", "--json")
    (row,) = json.loads(out)
    assert row["name"] == "x3d_s"


def test_unknown_name_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "models", "tsm_r51")
    assert (status, out) == (1, "")
    assert err == "videokd: no network is named 'tsm_r51'; did you mean 'tsm_r50'?\n"


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys\nfrom videokd.cli import main\n"
        "try:\n    main(['models', '--json'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == "False"
    assert len(json.loads(done.stdout)) == len(CATALOG)

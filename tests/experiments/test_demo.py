"""The demo, walked through quickly: every step is real, the accuracies mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videokd.bench.complexity import count_complexity
from videokd.bench.result import BenchmarkResult
from videokd.cli import main
from videokd.experiments.demo import ROLES, demo_recipe
from videokd.models.zoo import create_video_model


@pytest.mark.slow
def test_quick_demo_leaves_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--quick", "--out", str(out), "--device", "cpu"])
    text = capsys.readouterr().out
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert tuple(row["role"] for row in rows) == ROLES
    for row in rows:
        result = BenchmarkResult.from_dict(row)
        assert result.quick
        assert result.num_videos == 12
        assert row["role"] in text
    for name in ("report.md", "report.html", "pareto.png", "results.json", "results.csv"):
        assert (out / name).stat().st_size > 0
        assert str(out / name) in text
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    before = (out / "student" / "last.pt").read_bytes()
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--quick", "--out", str(out), "--device", "cpu"])
    assert (out / "student" / "last.pt").read_bytes() == before


def test_student_costs_at_most_a_tenth_of_the_teacher() -> None:
    gmacs = {}
    for role in ROLES:
        config = demo_recipe(role, Path("runs/demo"), seed=0, quick=False)
        model = create_video_model(config.model, num_classes=12)
        spec = config.model.input
        counted = count_complexity(model, num_frames=spec.num_frames, crop_px=spec.crop_px)
        gmacs[role] = counted.gmacs * config.eval.num_views
    assert 10 * gmacs["student"] <= gmacs["teacher"]
    assert gmacs["control"] == gmacs["student"]
    assert gmacs["no_temporal"] == gmacs["student"]

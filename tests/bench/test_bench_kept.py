"""What `bench` keeps in a run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from videokd.bench.result import read_results, results_json
from videokd.recipe import load_trained
from videokd.runs import keep_results


def test_rows_of_other_settings_stay_in_bench_json(
    tiny_control: Path, tmp_path: Path, make_result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_copy = Path(shutil.copytree(tiny_control, tmp_path / "control"))
    trained = load_trained(run_copy)
    bare = {"top1_pct": None, "top5_pct": None, "top1_interval_pct": None, "num_videos": None}
    sizes = {"num_frames": 4, **bare}
    first = make_result(batch=1, p50=10.0, **sizes)
    eight = make_result(batch=8, p50=50.0, **sizes)
    again = make_result(batch=1, p50=9.0, **sizes)
    keep_results(trained, [first, eight])
    returned = keep_results(trained, [again])
    assert read_results(run_copy / "bench.json") == [again, eight]
    document = json.loads((run_copy / "eval.json").read_text(encoding="utf-8"))
    assert [one.top1_pct for one in returned] == [document["top1_pct"]]
    (run_copy / "bench.json").write_text('[{"model": "older"}]')
    keep_results(trained, [again])
    assert read_results(run_copy / "bench.json") == [again]
    assert "was written by another version; its rows are replaced" in capsys.readouterr().err
    assert results_json([again]) == (run_copy / "bench.json").read_text(encoding="utf-8")

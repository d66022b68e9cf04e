"""The committed page says what the committed results say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import call

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tables_are_made_of_the_results(tmp_path, monkeypatch, capsys):
    for name in ("configs", "docs", "results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "reproduce", "ablation", "--stage", "report", "--quiet")
    assert code == 0, err
    written = (tmp_path / "docs" / "ablation.md").read_text(encoding="utf-8")
    assert written == (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")

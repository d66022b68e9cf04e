"""`videokd cache` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recipes import as_config, student_recipe

from videokd.cli import main
from videokd.config import dump_yaml
from videokd.data.index import Index


@pytest.fixture
def recipe(tiny_index: Index, tiny_teacher: Path, tmp_path: Path) -> Path:
    settings = student_recipe(tiny_index, tmp_path / "run", tiny_teacher)
    settings["objective"]["terms"] = {"soft": {"kind": "soft_targets"}}
    path = tmp_path / "student.yaml"
    path.write_text(dump_yaml(as_config(settings)), encoding="utf-8")
    return path


def test_cache_says_where_it_is_and_how_large(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    words = [
        "cache",
        str(recipe),
        "seed=7",
        "--out",
        str(out),
        "--epochs",
        "1",
        "--logits",
        "top-3",
    ]
    with pytest.raises(SystemExit) as end:
        main([*words, "--device", "cpu", "--insist"])
    assert end.value.code == 0
    captured = capsys.readouterr()
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    assert captured.out.startswith(f"{out}: written: 1 epochs, 24 clips, ")
    assert f"({num_bytes} bytes, " in captured.out
    assert captured.out.endswith(f"train with teacher.cache={out}\n")
    assert "24 clips to write, each the 3 largest of 12 logits" in captured.err
    command = json.loads((out / "cache.json").read_text(encoding="utf-8"))["command"]
    assert command == f"videokd {' '.join(words)}"
    with pytest.raises(SystemExit):
        main([*words, "--device", "cpu", "--json", "--quiet"])
    document = json.loads(capsys.readouterr().out)
    assert document["already_done"] is True
    assert document["num_bytes"] == num_bytes
    assert document["bytes_per_clip"] == 8 + 8 + 4 + 3 * 2 + 3 * 4 + 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--logits", "some"], "--logits 'some' is not known; take whole, or top-10 (any number)"),
        (["--logits", "top-20"], "--logits top-20: there are 12 classes; take fewer, or whole"),
    ],
)
def test_logits_that_cannot_be_kept_are_refused_in_a_line(
    recipe: Path,
    tmp_path: Path,
    option: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["cache", str(recipe), "--out", str(tmp_path / "cache"), "--device", "cpu", *option])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"videokd: {message}\n"


def test_a_teacher_at_chance_is_not_cached_unless_insisted(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    with pytest.raises(SystemExit) as end:
        main(["cache", str(recipe), "--out", str(out), "--device", "cpu", "--quiet"])
    captured = capsys.readouterr()
    assert end.value.code == 1
    assert "cannot be told from chance" in captured.err
    assert captured.err.count("\n") == 1
    assert not list(out.glob("*.npy"))


@pytest.mark.parametrize("hint", ["stage4", "stage4:", ":fast_res4", "stage4:fast:res4"])
def test_a_hint_that_names_no_two_taps_is_refused(
    hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["cache-cost", "--out", str(tmp_path / "cost"), "--hint", hint, "--device", "cpu"])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert f"--hint {hint!r} is no STUDENT_TAP:TEACHER_TAP" in captured.err
    assert not (tmp_path / "cost").exists()


@pytest.mark.parametrize("command", ["cache", "cache-cost"])
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys\n"
        "from videokd.cli import main\n"
        f"try:\n    main(['{command}', '--help'])\n"
        "except SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "teacher" in done.stdout

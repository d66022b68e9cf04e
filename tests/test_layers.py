"""The house: imports go down, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "videokd"

FLOORS = {
    # The ground, in this order.
    "errors": 0,
    "files": 1,
    "config": 2,
    "types": 3,
    # Rooms that do not know each other.
    "progress": 4,
    "data": 4,
    "models": 4,
    "distill": 4,
    "metrics": 4,
    "checkpoint": 4,
    "tracking": 4,
    # Rooms that use them.
    "engine": 5,
    "bench": 5,
    "first_weights": 5,
    # A teacher's outputs on disk, for the training loop.
    "teacher_cache": 6,
    # Where names meet code, and run folders.
    "recipe": 7,
    "evaluation": 8,
    "runs": 9,
    "experiments": 10,
    "deploy": 10,
    "cli": 11,
    "__main__": 12,
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the room in full"
            names = [node.module or ""]
            if node.module == "videokd":
                names = [f"videokd.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("videokd.")}
    return rooms


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not imported_rooms(path.read_text(encoding="utf-8"))
        return
    for other in imported_rooms(path.read_text(encoding="utf-8")) - {room, "__version__"}:
        assert FLOORS[other] < FLOORS[room], f"{room} must not import {other}"


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(FLOORS)


def test_the_check_sees_an_upward_import() -> None:
    source = "from videokd.engine.train import Trainer\nfrom videokd import cli\n"
    assert imported_rooms(source) == {"engine", "cli"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "--help"], ["--version"], ["data", "index", "--help"]]
)
def test_help_and_data_start_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from videokd.cli import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "room",
    sorted(path.stem for path in (PACKAGE / "data").iterdir() if path.stem[0].isalpha()),
)
def test_these_data_modules_need_no_torch(room: str) -> None:
    code = f"import sys, videokd.data.{room}\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

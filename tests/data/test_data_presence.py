from __future__ import annotations

from pathlib import Path

import pytest

from videokd.data.index.presence import first_missing


@pytest.mark.parametrize("num_others", [0, 100])
def test_the_first_that_is_missing(tmp_path: Path, num_others: int) -> None:
    """Whether the folder is listed (100 more files) or each file is asked for."""
    for i in range(num_others):
        (tmp_path / f"{i}.mp4").touch()
    others = [str(tmp_path / f"{i}.mp4") for i in range(num_others)]
    file, folder = tmp_path / "file.mp4", tmp_path / "frames"
    link, broken = tmp_path / "link.mp4", tmp_path / "broken.mp4"
    file.touch()
    folder.mkdir()
    link.symlink_to(file)
    broken.symlink_to(tmp_path / "gone.mp4")
    there = [(str(file), False), (str(folder), True), (str(link), False)]
    there += [(path, False) for path in others]
    odd = (f"{tmp_path}/./file.mp4", False)  # is there, though no listing says it so
    absent = [(str(broken), False), (str(file), True), (str(folder), False)]
    absent += [(str(tmp_path / "nowhere" / "a.mp4"), False), (f"{tmp_path}/", False)]

    def position(*rows: tuple[str, bool]) -> int | None:
        return first_missing([path for path, _ in rows], [is_folder for _, is_folder in rows])

    assert position(*there, odd) is None
    for row in absent:
        assert position(*there, row, odd, row) == len(there)
    nowhere = str(tmp_path / "nowhere" / "a.mp4")
    assert first_missing([str(file), *[nowhere] * 100], [False] * 101) == 1
    assert first_missing([], []) is None

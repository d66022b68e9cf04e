from __future__ import annotations

import os
from pathlib import Path

import pytest
from numbered_video import write_numbered

from videokd.data.index import Index
from videokd.data.loading import clips
from videokd.types import ClassNames, VideoRecord


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos that are not the project's to redistribute."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("VIDEOKD_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set VIDEOKD_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`left/` and `right/`, five videos each, of 20 to 29 numbered frames."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(10):
        folder = root / ("left" if i < 5 else "right")
        folder.mkdir(exist_ok=True)
        write_numbered(folder / f"p{i % 5}_clip {i}.mp4", 20 + i, gop=5)
    return root


@pytest.fixture(scope="session")
def classes() -> ClassNames:
    return ClassNames(["left", "right"])


@pytest.fixture(scope="session")
def records(video_folder: Path) -> tuple[VideoRecord, ...]:
    """The ten videos: the first three of each class train, then one validates, one tests."""
    found = []
    for i in range(10):
        name = "left" if i < 5 else "right"
        path = video_folder / name / f"p{i % 5}_clip {i}.mp4"
        found.append(
            VideoRecord(
                path=path,
                labels=(int(i >= 5),),
                num_frames=20 + i,
                fps=25.0,
                height=64,
                width=96,
                reader="decord" if i % 2 else "pyav",
                group=f"p{i % 5}",
                split="train" if i % 5 < 3 else "val" if i % 5 == 3 else "test",
                bytes=path.stat().st_size,
                digest="0" * 16,
            )
        )
    return tuple(found)


@pytest.fixture
def index(records: tuple[VideoRecord, ...], classes: ClassNames) -> Index:
    """The ten videos; the file that it names is not there."""
    return Index(Path("videos.csv"), classes, records)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """The file and the reader of each opening for clips, as they are made."""
    found: list[tuple[Path, str]] = []
    original = clips.open_video

    def spy(path, reader, **options):
        found.append((path, reader))
        return original(path, reader, **options)

    monkeypatch.setattr(clips, "open_video", spy)
    return found

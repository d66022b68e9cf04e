"""How long a big index takes to open, and how much memory: python tools/measure_index.py

Makes an index of a million videos in a temporary folder and opens it in processes of their own: by
Python's csv module alone, without a cache, and with the cache that this left.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_CLASSES = 700
WAYS = ("csv.reader", "without cache", "with cache")


def row(i: int) -> tuple[str, str, int, float, int, int, str, str, str, int, str]:
    """Values of video i: a Kinetics-like path, three frame rates, four videos a group."""
    name = f"class {i % NUM_CLASSES:03d}"
    path = f"videos/{name}/{i * 2654435761 % 2**32:08x}_{i:07d}.mp4"
    fps = (25.0, 30.0, 30000 / 1001)[i % 3]
    split = "train" if i % 10 else "val"
    digest = f"{i * 11400714819323198485 % 2**64:016x}"
    size = 200_000 + i % 90_001
    return path, name, 200 + i % 101, fps, 256, 340, "decord", f"g{i // 4}", split, size, digest


def write_csv(folder: Path, num_videos: int) -> Path:
    """An index of videos that are not there."""
    path = folder / "videos.csv"
    header = "path,label,num_frames,fps,height,width,reader,group,split,bytes,digest"
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{header}\n")
        file.writelines(",".join(map(str, row(i))) + "\n" for i in range(num_videos))
    names = "".join(f"class {c:03d}\n" for c in range(NUM_CLASSES))
    path.with_suffix(".classes.txt").write_text(names, encoding="utf-8")
    return path


def open_once(path: Path, way: str) -> dict[str, float]:
    """In this process: seconds with and without imports, and the peak of its memory."""
    start = imported = time.perf_counter()
    if way == "csv.reader":
        with path.open(encoding="utf-8", newline="") as file:
            num_videos = len(list(csv.reader(file))) - 1
    else:
        from videokd.data.index import read_index

        imported = time.perf_counter()
        num_videos = len(read_index(path))
    stop = time.perf_counter()
    return {
        "num_videos": num_videos,
        "seconds": stop - start,
        "import_seconds": imported - start,
        "peak_gib": peak_gib(),
    }


def peak_gib() -> float:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent held before exec, too
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS: bytes


def measure(path: Path, way: str) -> dict[str, float]:
    """`open_once` in a process of its own."""
    command = [sys.executable, __file__, "--open", str(path), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-videos", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="each way is opened so often")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--open", nargs=2, metavar=("CSV", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_once(Path(options.open[0]), options.open[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder), options.num_videos)
        rounds = []
        for _ in range(options.rounds):
            path.with_suffix(".cache.arrow").unlink(missing_ok=True)
            rounds.append({way: measure(path, way) for way in WAYS})
        size = {p.name: p.stat().st_size / 2**20 for p in sorted(Path(folder).iterdir())}
    if options.json:
        print(json.dumps({"rounds": rounds, "size_mib": size}))
        return
    print(f"{options.num_videos} videos;", ", ".join(f"{n} {m:.0f} MiB" for n, m in size.items()))
    for way in WAYS:
        seconds = sorted(found[way]["seconds"] for found in rounds)
        peak = max(found[way]["peak_gib"] for found in rounds)
        print(
            f"{way:14} {seconds[len(seconds) // 2]:6.2f} s"
            f" ({seconds[0]:.2f} to {seconds[-1]:.2f}), peak {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()

"""Damaged copies of small videos, and what the scan makes of them.

A decoder does not notice every flipped bit: some damage shows other pictures without a word. How
often that happens is measured here; what finds it is the digest in the index. Nothing here imports
torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videokd.data.check.files import CheckedVideo, content_digest
from videokd.data.scan import scan
from videokd.data.scan.inspection import ScanFailure, Scanned, ScanResult, inspect_video
from videokd.errors import UnreadableVideo

NUM_FRAMES = 40
HEIGHT, WIDTH = 64, 96

_X264 = {"crf": "23", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
# x265 decides a good deal by unwritten memory on small frames; this leaves it no choice.
_X265 = (
    "log-level=none:pools=none:frame-threads=1:no-wpp=1:keyint=20:bframes=3:b-adapt=0:qp=28:"
    "no-cutree=1:aq-mode=0:no-scenecut=1"
)
_PLAIN = {"fflags": "+bitexact"}  # without, Matroska files get random numbers
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

SAMPLES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "h264.mp4": ("libx264", {**_X264, "g": "20", "bf": "3"}, {"movflags": "faststart"}),
    "h264.mkv": ("libx264", {**_X264, "g": "20", "bf": "2"}, _PLAIN),
    "fragmented.mp4": ("libx264", {**_X264, "g": "10", "bf": "0"}, _FRAGMENTS),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "0", "b": "800k"}, {}),
    "hevc.mp4": ("libx265", {"x265-params": _X265}, {}),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "b": "500k", "deadline": "realtime"}, _PLAIN),
}
"""File name -> encoder, its options, the container's options."""

Kind = Literal["flip", "cut", "splice"]
KINDS: tuple[Kind, ...] = ("flip", "cut", "splice")

Outcome = Literal["refused", "same frames", "other frames", "unharmed"]
OUTCOMES: tuple[Outcome, ...] = ("refused", "same frames", "other frames", "unharmed")
"""`same frames`: accepted, and every frame decodes to the original's pixels. `other frames`:
accepted, and some do not. `unharmed`: the bytes are the original's by chance."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged copy."""

    sample: str
    """A key of `SAMPLES`."""
    kind: Kind
    content: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """What the scan made of a damaged copy."""

    sample: str
    kind: Kind
    path: Path
    outcome: Outcome
    reason: str
    """Why it was refused."""


def write_samples(folder: Path) -> list[Path]:
    """Encode the small videos, `NUM_FRAMES` moving frames each; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (codec, options, container_options) in SAMPLES.items():
        _write_sample(folder / name, codec, options, container_options)
    return [folder / name for name in SAMPLES]


def mutants(samples: Sequence[Path], count: int, *, seed: int) -> Iterator[Mutant]:
    """`count` damaged copies; the samples and kinds of damage take turns.

    - flip: 1 to 16 bytes, each turned into another.
    - cut: the end is missing, from anywhere on.
    - splice: a piece of up to an eighth of the file is taken out, put in elsewhere, or written over
      another place.

    Number i is the same whatever `count` is.
    """
    contents = [path.read_bytes() for path in samples]
    damage: dict[Kind, Callable[[bytes, np.random.Generator], bytes]] = {
        "flip": _flip,
        "cut": _cut,
        "splice": _splice,
    }
    for number in range(count):
        which = number % len(samples)
        kind = KINDS[number // len(samples) % len(KINDS)]
        generator = np.random.default_rng([seed, number])
        yield Mutant(samples[which].name, kind, damage[kind](contents[which], generator))


def judge_mutants(
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    num_processes: int = 1,
    time_limit_seconds: float = 60.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Judged]:
    """Write damaged copies into `folder`, scan them, and compare their frames with the originals'.

    Processes are spawned; see `scan`.
    """
    samples = write_samples(folder / "samples")
    made = list(mutants(samples, count, seed=seed))
    paths = []
    for number, mutant in enumerate(made):
        paths.append(folder / f"{number:05d}_{mutant.kind}_{mutant.sample}")
        paths[-1].write_bytes(mutant.content)
    found = scan(
        [*samples, *paths],
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
        inspect=inspect_all_frames,
    )
    originals = {result.path.name: result for result in found[: len(samples)]}
    return [
        Judged(mutant.sample, mutant.kind, result.path, *_judge(result, originals[mutant.sample]))
        for mutant, result in zip(made, found[len(samples) :], strict=True)
    ]


def inspect_all_frames(path: Path) -> Iterator[Scanned]:
    """What `inspect_video` says, with a digest over all frames; for the workers of `scan`."""
    latest: Scanned | None = None
    for latest in inspect_video(path):
        yield latest
    if isinstance(latest, ScanResult):
        values = {entry.name: getattr(latest, entry.name) for entry in fields(ScanResult)}
        try:
            content = content_digest(path, "pyav", latest.num_frames, range(latest.num_frames))
        except UnreadableVideo as error:
            yield ScanFailure(path, f"frames do not decode a second time: {error.reason}")
            return
        yield CheckedVideo(**values, content=content)


def damage_table(judged: Sequence[Judged]) -> str:
    """Counts of each outcome by file and kind of damage, as a Markdown table."""
    counts = Counter((one.sample, one.kind, one.outcome) for one in judged)
    shown = [o for o in OUTCOMES if o != "unharmed" or any(one.outcome == o for one in judged)]
    rows = [[sample, kind] for sample in SAMPLES for kind in KINDS] + [
        ["all", kind] for kind in KINDS
    ]
    lines = [
        "| file | damage | copies | " + " | ".join(shown) + " |",
        "|---|---|" + "--:|" * (len(shown) + 1),
    ]
    for sample, kind in [*rows, ["all", "all"]]:
        numbers = [
            sum(
                n
                for (s, k, o), n in counts.items()
                if o == outcome and sample in (s, "all") and kind in (k, "all")
            )
            for outcome in shown
        ]
        cells = [sample, kind, str(sum(numbers)), *map(str, numbers)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _judge(found: Scanned, original: Scanned) -> tuple[Outcome, str]:
    assert isinstance(original, CheckedVideo), original
    if not isinstance(found, CheckedVideo):
        return "refused", found.reason if isinstance(found, ScanFailure) else found.note
    if found.digest == original.digest:
        return "unharmed", ""
    return ("same frames" if found.content == original.content else "other frames"), ""


def _flip(content: bytes, generator: np.random.Generator) -> bytes:
    data = np.frombuffer(content, dtype=np.uint8).copy()
    places = generator.choice(len(data), size=generator.integers(1, 17), replace=False)
    data[places] ^= generator.integers(1, 256, size=len(places), dtype=np.uint8)
    return data.tobytes()


def _cut(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: generator.integers(1, len(content))]


def _splice(content: bytes, generator: np.random.Generator) -> bytes:
    length = int(generator.integers(1, len(content) // 8))
    source, target = generator.integers(0, len(content) - length, size=2).tolist()
    piece = content[source : source + length]
    way = generator.integers(3)
    if way == 0:
        return content[:source] + content[source + length :]
    if way == 1:
        return content[:target] + piece + content[target:]
    return content[:target] + piece + content[target + length :]


def _write_sample(
    path: Path, codec: str, options: dict[str, str], container_options: dict[str, str]
) -> None:
    import av

    with av.open(str(path), "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.thread_count = 1
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(_pattern(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pattern(number: int) -> np.ndarray:
    """Waves and blocks that move; no two frames alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin((x + 2 * number) / 7.0) * np.cos((y - number) / 5.0) * 60 + 128
    blocks = (((x + 3 * number) // 12 + (y + number) // 12) % 2) * 50
    picture = np.stack([waves, waves[::-1] * 0.5 + blocks, blocks + number * 2.0], axis=-1)
    return np.clip(picture, 0, 255).astype(np.uint8)

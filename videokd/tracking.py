"""What a run measured, as it goes: `metrics.jsonl` always, TensorBoard beside it by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from videokd.errors import UserError
from videokd.files import write_text

METRICS_FILE = "metrics.jsonl"


class Sink(Protocol):
    """Where scalars of one step go."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep the scalars of one step."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class JsonLines:
    """One JSON object a line: {"step": 12, "loss": 1.5, ...}; each line is whole on the disk."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        """Open `path`, keeping only the lines below `from_step`: a resumed run repeats the rest."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [row for row in read_metrics(path) if row["step"] < from_step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files for `tensorboard --logdir`; steps from `from_step` on replace earlier ones."""

    def __init__(self, folder: Path, *, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add each scalar under its name."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, from the extra `videokd[wandb]`."""

    def __init__(self, folder: Path, *, name: str) -> None:
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise UserError(
                "train.wandb is on, but wandb is not installed; pip install 'videokd[wandb]'"
            ) from None
        self._run: Any = wandb.init(dir=str(folder), name=name, id=name, resume="allow")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send the scalars of one step."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the remote run."""
        self._run.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a crash left half-written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # only the last line can be torn: lines are flushed whole, one by one
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows

"""What a recipe's terms compare, as a table to read before the first step.

```
middle: hint, weight 100, projection 16 -> 32 channels of 544 parameters
  student  stage2  16 x 4 x 8 x 8    4 steps, 0.00 to 0.40 s  as it is
  teacher  res2    32 x 8 x 16 x 16  8 steps, 0.00 to 0.47 s  read at 4 moments, pooled to 8 x 8
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from videokd.distill.losses import TermLoss
from videokd.distill.objective import Objective
from videokd.types import ModelOutput, TapOutput

WIDTH = 100
"""Columns of a line, at most."""


class _Row(NamedTuple):
    """One side of a pair, in the table's columns."""

    role: str
    tap: str
    shape: str
    seconds: str
    alignment: str


def tap_report(objective: Objective, student: ModelOutput, teacher: ModelOutput | None) -> str:
    """A table of all active terms: what they look at, when its steps happen, how sides are aligned.

    Shapes are C x t x h x w, the teacher's after its views are merged. Seconds are those of the
    batch's first clip.

    Args:
        student: of one batch, with the taps that the terms name.
        teacher: of the same batch; None where no term needs it.

    Returns:
        Lines of at most `WIDTH` columns, the last one ended.
    """
    blocks = [(_title(loss), _rows(loss, student, teacher)) for loss in objective.active_losses]
    rows = [row for _, rows in blocks for row in rows]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = []
    for title, rows in blocks:
        lines.append(title)
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
            lines.append("  " + "  ".join(cells))
    return "".join(f"{_cut(line.rstrip())}\n" for line in lines)


def on_first_batch(objective: Objective, tell: Callable[[str], None]) -> None:
    """Have `tell` called once with the report, when the first batch reaches the objective.

    Where a term that starts later needs a teacher, it is the first batch with the teacher's output.
    """

    def report(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        student, teacher, *_ = arguments
        if teacher is not None or not objective.config.needs_teacher:
            handle.remove()
            tell(tap_report(objective, student, teacher))

    handle = objective.register_forward_pre_hook(report)


def _title(loss: TermLoss[Any]) -> str:
    scheduled = " at most" if loss.term.schedule is not None else ""
    return f"{loss.name}: {loss.term.kind}, weight{scheduled} {loss.term.weight:g}{_learned(loss)}"


def _learned(loss: TermLoss[Any]) -> str:
    num_learned = sum(parameter.numel() for parameter in loss.parameters())
    if not num_learned:
        return ""
    layers = [layer for layer in loss.modules() if isinstance(layer, nn.Conv3d | nn.Linear)]
    sizes = [f"{layer.weight.shape[1]} -> {layer.weight.shape[0]}" for layer in layers]
    if len(sizes) == 1:
        return f", projection {sizes[0]} channels of {num_learned:,} parameters"
    return f", {num_learned:,} parameters, projections {', '.join(sizes)}"


def _rows(loss: TermLoss[Any], student: ModelOutput, teacher: ModelOutput | None) -> list[_Row]:
    rows: list[_Row] = []
    if teacher is None:
        return rows
    if getattr(loss.term, "source", None) == "weights":
        return _attention_rows(student, teacher)
    for pair in loss.term.tap_pairs:
        sides = (student.taps[pair.student_tap], teacher.taps[pair.teacher_tap])
        for role, name, mine, other in (
            ("student", pair.student_tap, *sides),
            ("teacher", pair.teacher_tap, *reversed(sides)),
        ):
            shape = " x ".join(map(str, mine.features.shape[1:]))
            alignment = _alignment(loss, mine, other, is_read=role == "teacher")
            rows.append(_Row(role, name, shape, _seconds(mine.step_seconds), alignment))
    return rows


def _attention_rows(student: ModelOutput, teacher: ModelOutput) -> list[_Row]:
    """Of weights over time; the first batch is refused where a side has none."""
    mine, theirs = student.attention_seconds, teacher.attention_seconds
    if mine is None or theirs is None:
        return []
    alignment = "as it is" if torch.equal(mine, theirs) else f"read at {mine.shape[1]} moments"
    return [
        _Row("student", "attention", "weights", _seconds(mine), "as it is"),
        _Row("teacher", "attention", "weights", _seconds(theirs), alignment),
    ]


def _alignment(loss: TermLoss[Any], mine: TapOutput, other: TapOutput, *, is_read: bool) -> str:
    done: list[str] = []
    if is_read and loss.aligns_time and not torch.equal(mine.step_seconds, other.step_seconds):
        done.append(f"read at {other.step_seconds.shape[1]} moments")
    height, width = mine.features.shape[3:]
    pooled = (min(height, other.features.shape[3]), min(width, other.features.shape[4]))
    if loss.aligns_space and pooled != (height, width):
        done.append(f"pooled to {pooled[0]} x {pooled[1]}")
    return ", ".join(done) or "as it is"


def _seconds(step_seconds: torch.Tensor) -> str:
    """Of the first clip; one that starts over has its latest step in the middle."""
    num_steps = step_seconds.shape[1]
    first, last = (bound.item() for bound in step_seconds[0].aminmax())
    if num_steps == 1:
        return f"1 step, {first:.2f} s"
    return f"{num_steps} steps, {first:.2f} to {last:.2f} s"


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."

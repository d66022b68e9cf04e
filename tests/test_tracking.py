"""metrics.jsonl is cut back to the step that a run resumes from."""

from __future__ import annotations

from pathlib import Path

from videokd.tracking import JsonLines, TensorBoard, read_metrics


def test_rows_are_read_back_and_cut_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JsonLines(path, from_step=0)
    for step in range(4):
        log.log(step, {"loss": step / 2})
    log.close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # a crash in the middle of a line
    log = JsonLines(path, from_step=2)
    log.log(2, {"loss": 9.0})
    log.close()
    assert read_metrics(path) == [
        {"step": 0, "loss": 0.0},
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 9.0},
    ]


def test_tensorboard_holds_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, from_step=0)
    board.log(3, {"loss": 1.5})
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (scalar,) = events.Scalars("loss")
    assert (scalar.step, scalar.value) == (3, 1.5)

"""Published sizes and operations against our count, on the `meta` device: seconds, no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from videokd.errors import UserError
from videokd.experiments.reproduce.result import Outcome, Status
from videokd.experiments.reproduce.tables import (
    KnownError,
    Quantity,
    Table,
    TableRow,
    model_config,
    network_settings,
)

Progress = Callable[[int, int, str], None]


class Counter:
    """Counts networks; rows that differ only in what they count of one share its forward pass."""

    def __init__(self) -> None:
        self._counts: dict[str, Any] = {}

    def measure(
        self, row: TableRow, quantity: Quantity, *, source: str, error: KnownError | None = None
    ) -> float:
        """Parameters or operations of a row's network, 1e6 or 1e9; with `error`, of its evidence.

        Raises:
            UserError: settings that make no network, or one that does not take this input.
        """
        settings = network_settings(row, error)
        num_classes = (error and error.num_classes) or row.num_classes
        size = model_config(settings, source=source).input
        seen = {"input": [size.num_frames, size.crop_px], "num_classes": num_classes}
        key = json.dumps(settings | seen, sort_keys=True)
        if key not in self._counts:
            self._counts[key] = _count(settings, num_classes, source=source)
        convention = (error and error.convention) or row.convention
        complexity = self._counts[key].complexity(convention)
        return float(complexity.params_m if quantity == "params_m" else complexity.gops)


def reproduce_complexity(
    tables: Mapping[str, Table], *, on_progress: Progress | None = None
) -> list[Outcome]:
    """Every published number of parameters and operations against ours."""
    rows = [(name, row) for name, table in tables.items() for row in table.rows]
    counter = Counter()
    outcomes: list[Outcome] = []
    for number, (name, row) in enumerate(rows):
        if on_progress is not None:
            on_progress(number, len(rows), f"{name}/{row.name}")
        outcomes += complexity_outcomes(name, row, counter)
    if on_progress is not None:
        on_progress(len(rows), len(rows), "")
    return outcomes


def complexity_outcomes(table: str, row: TableRow, counter: Counter) -> list[Outcome]:
    """The outcomes of one row, one for each number that it publishes."""
    published: list[tuple[Quantity, float | None, float]] = [
        ("params_m", row.params_m, row.params_tolerance_m),
        ("gops", row.gops, row.allowed_gops),
    ]
    return [
        _outcome(table, row, counter, quantity, value, tolerance)
        for quantity, value, tolerance in published
        if value is not None
    ]


def _outcome(
    table: str,
    row: TableRow,
    counter: Counter,
    quantity: Quantity,
    published: float,
    tolerance: float,
) -> Outcome:
    measured: float | None = None
    try:
        measured = counter.measure(row, quantity, source=f"{table}/{row.name}")
        status, reason = _judged(row, quantity, published, measured, tolerance)
    except UserError as error:
        status, reason = "FAIL", str(error)
    return Outcome(
        table=table,
        row=row.name,
        quantity=quantity,
        convention=row.convention if quantity == "gops" else None,
        published=published,
        measured=measured,
        tolerance=tolerance,
        status=status,
        reason=reason,
    )


def _judged(
    row: TableRow, quantity: Quantity, published: float, measured: float, tolerance: float
) -> tuple[Status, str]:
    agrees = within(published, measured, tolerance)
    error = row.known_error(quantity)
    if error is not None and agrees:
        return "FAIL", f"agrees, though listed as an error of its source: {error.what}"
    if error is not None:
        return "SKIP", f"known error of the source: {error.what}"
    if agrees:
        return "PASS", row.note
    return "FAIL", f"{measured:.4f} is not {published:g} within {tolerance:.2g}"


def within(published: float, measured: float, tolerance: float) -> bool:
    """Whether two numbers agree; the last bit of a decimal fraction is nobody's error."""
    return abs(measured - published) <= tolerance * (1 + 1e-9)


def _count(settings: dict[str, Any], num_classes: int, *, source: str) -> Any:
    from videokd.bench.complexity import count_operations

    config = model_config(settings, source=source)
    parts = without_weights(config, num_classes)
    return count_operations(
        parts.network,
        num_frames=config.input.num_frames,
        crop_px=config.input.crop_px,
        classifier=parts.classifier,
    )


def without_weights(config: Any, num_classes: int) -> Any:
    """The bare network on the `meta` device, where its builder works there.

    Some builders read numbers out of tensors while they build: those are built on the CPU, which
    takes a second or two for drawing weights.
    """
    import torch

    from videokd.models.zoo import create_network

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return create_network(config, num_classes)
        except (RuntimeError, NotImplementedError, ValueError):
            return create_network(config, num_classes)

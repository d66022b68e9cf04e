"""The rows of a count as a table, down to any depth."""

from __future__ import annotations

from collections.abc import Sequence

from videokd.bench.complexity.count import Complexity, ModuleRow


def rows_to_depth(rows: Sequence[ModuleRow], depth: int | None) -> list[ModuleRow]:
    """Rows with all that lies deeper than `depth` added to what contains it; None leaves them.

    `depth` 1 is the network's children. The sums over all rows stay the same.
    """
    if depth is None:
        return list(rows)
    merged: dict[str, ModuleRow] = {}
    for row in rows:
        path = ".".join(row.path.split(".")[:depth]) if depth else ""
        if path not in merged:
            merged[path] = row._replace(path=path, kind=row.kind if path == row.path else "")
            continue
        known = merged[path]
        numbers = (a + b for a, b in zip(known[2:], row[2:], strict=True))
        merged[path] = ModuleRow(path, known.kind, *numbers)
    return list(merged.values())


def format_by_module(complexity: Complexity, *, depth: int | None = None) -> str:
    """A table in plain text: a line a module, its share of the work, and the sums at the end."""
    rows = rows_to_depth(complexity.modules, depth)
    total = ModuleRow("total", "", *(sum(column) for column in list(zip(*rows, strict=True))[2:]))
    lines = [_cells(row, total) for row in (*rows, total)]
    head = ["module", "params", "GMACs", complexity.convention, "share", "activations"]
    table = [head, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return "\n".join(_aligned(line, widths) for line in table)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    name, *numbers = cells
    columns = [c.rjust(width) for c, width in zip(numbers, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *columns])


def _cells(row: ModuleRow, total: ModuleRow) -> list[str]:
    share = f"{100 * row.ops / total.ops:.1f} %" if total.ops else "-"
    name = f"{row.path or '(itself)'} {row.kind}".strip()
    return [
        name,
        f"{row.params:,}",
        f"{row.macs / 1e9:.4f}",
        f"{row.ops / 1e9:.4f}",
        share,
        f"{row.activations:,}",
    ]

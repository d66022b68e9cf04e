"""Several comparisons at once: p-values that hold for all of them together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float], *, num_hypotheses: int | None = None) -> list[float]:
    """Adjusted p-values of Holm's step-down procedure, in the order given.

    With m hypotheses and p sorted upwards, the adjusted i-th smallest is the largest of
    min(1, (m - j + 1) * p_j) over j = 1 .. i. Rejecting what is at most alpha keeps the chance of
    any false rejection at alpha or below, whatever the tests have to do with each other (S. Holm,
    "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
    6, 1979).

    Args:
        p_values: of the tests that were made.
        num_hypotheses: m, where tests are still to be made or could not be: they count as p = 1.

    Raises:
        ValueError: a value outside [0, 1], or none (NaN); fewer hypotheses than tests.
    """
    num_left = len(p_values) if num_hypotheses is None else num_hypotheses
    if num_left < len(p_values):
        raise ValueError(f"{num_left} hypotheses, and {len(p_values)} tests of them")
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"p-value {p} is outside [0, 1]")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for position in sorted(range(len(p_values)), key=p_values.__getitem__):
        largest = max(largest, min(1.0, num_left * p_values[position]))
        adjusted[position] = largest
        num_left -= 1
    return adjusted

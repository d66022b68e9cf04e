"""Weights from a checkpoint into a network, with an account of what went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from videokd.errors import UserError

_WRAPPERS = ("", "network.", "module.", "module.network.", "model.", "model.network.")
"""What wrappers put in front of a network's keys: VideoModel, DistributedDataParallel, Frozen."""
_MIN_MATCHED_SHARE = 0.5
"""Below this share of the network's tensors a checkpoint is of another network, partial or not."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Which keys of a network were loaded and which were not; keys are the network's own."""

    source: str
    """The checkpoint, as errors name it."""
    matched: tuple[str, ...]
    """Loaded."""
    missing: tuple[str, ...] = ()
    """In the network but not in the checkpoint: they keep their initial values."""
    unexpected: tuple[str, ...] = ()
    """In the checkpoint but not in the network: left out."""
    head: tuple[str, ...] = ()
    """The classifier's, which keep their initial values because the head is replaced."""

    def summary(self) -> str:
        """One line a kind: how many keys, and the first few where something was not loaded."""
        lines = [f"{self.source}: {len(self.matched)} tensors loaded"]
        if self.head:
            lines.append(f"  new head, as initialised: {_some(self.head)}")
        if self.missing:
            lines.append(f"  missing, as initialised: {_some(self.missing)}")
        if self.unexpected:
            lines.append(f"  unexpected, left out: {_some(self.unexpected)}")
        return "\n".join(lines)


def load_weights(
    network: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    replace_head: bool,
    classifier: str,
    source: str,
    allow_partial: bool = False,
) -> LoadReport:
    """Copy a state dict into `network`, wholly or, after an error, not at all.

    Args:
        network: takes the weights; a prefix that a wrapper left on the keys is taken off.
        state_dict: key -> tensor.
        replace_head: leave the classifier as it was initialised: for other classes.
        classifier: dotted path of the classifier in `network`.
        source: names the checkpoint in errors and in the report.
        allow_partial: missing and unexpected keys are reported instead of refused, as long as half
            of the network's tensors match.

    Raises:
        UserError: where a shape differs (the first key, with both shapes), where keys are missing
            or unexpected and `allow_partial` is off, and where it is another network's checkpoint.
    """
    wanted = dict(network.state_dict())
    given = _unwrapped(_tensors(state_dict, source), wanted)
    head = tuple(key for key in wanted if replace_head and key.startswith(f"{classifier}."))
    body = [key for key in wanted if key not in head]
    report = LoadReport(
        source=source,
        matched=tuple(key for key in body if key in given),
        missing=tuple(key for key in body if key not in given),
        unexpected=tuple(key for key in given if key not in wanted),
        head=head,
    )
    _refuse_stranger(report, num_wanted=len(body))
    _refuse_other_shapes(report, given, wanted, classifier)
    if not allow_partial and (report.missing or report.unexpected):
        raise UserError(
            f"{source}: does not fit: {_differences(report)}; "
            "give the checkpoint of the same network, or allow a partial load"
        )
    network.load_state_dict({key: given[key] for key in report.matched}, strict=False)
    return report


def _tensors(state_dict: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    if not isinstance(state_dict, Mapping):
        raise UserError(
            f"{source}: holds a {type(state_dict).__name__}, not a state dict of named tensors"
        )
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{source}: {key!r} is a {type(value).__name__}, not a tensor; "
                "give the state dict itself, which holds nothing but tensors"
            )
    return dict(state_dict)


def _unwrapped(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys without the wrapper's prefix that makes most of them match."""

    def num_matches(prefix: str) -> int:
        return sum(f"{prefix}{key}" in given for key in wanted)

    prefix = max(_WRAPPERS, key=num_matches)  # the first, "", where none matches better
    return {key.removeprefix(prefix): value for key, value in given.items()}


def _refuse_stranger(report: LoadReport, *, num_wanted: int) -> None:
    if len(report.matched) >= max(1, _MIN_MATCHED_SHARE * num_wanted):
        return
    raise UserError(
        f"{report.source}: is the checkpoint of another network: {len(report.matched)} of "
        f"{num_wanted} tensors match by name; {_differences(report)}"
    )


def _refuse_other_shapes(
    report: LoadReport, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], classifier: str
) -> None:
    others = [key for key in report.matched if given[key].shape != wanted[key].shape]
    if not others:
        return
    first = others[0]
    if all(key.startswith(f"{classifier}.") for key in others):
        advice = "the classes are others: set replace_head: true to start a new head"
    else:
        advice = "give the checkpoint of the same network, or set its widths and depths"
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    raise UserError(
        f"{report.source}: {first!r} is {list(given[first].shape)} in the checkpoint and "
        f"{list(wanted[first].shape)} in the network{more}; {advice}"
    )


def _differences(report: LoadReport) -> str:
    parts = []
    if report.missing:
        parts.append(f"{len(report.missing)} missing, first {report.missing[0]!r}")
    if report.unexpected:
        parts.append(f"{len(report.unexpected)} unexpected, first {report.unexpected[0]!r}")
    return "; ".join(parts)


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3])
    return f"{len(keys)} ({shown}{', ...' if len(keys) > 3 else ''})"

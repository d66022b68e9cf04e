"""Weights from a checkpoint into a network, with an account of what went where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch import Tensor, nn

from videokd.errors import UserError
from videokd.models.teachers.huggingface import installed_names
from videokd.models.temporal import TemporalShift
from videokd.models.weights.convert import Convert, convert_weights
from videokd.models.weights.layouts import Layout, Translated, some, translate

_WRAPPERS = ("", "network.", "module.", "module.network.", "model.", "model.network.")
"""What wrappers put in front of a network's keys: VideoModel, DistributedDataParallel, Frozen."""
_COUNTER = ".num_batches_tracked"
"""Batch norms of PyTorch before 0.4.1 had none; with a fixed momentum it changes nothing."""
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
    layout: str = "native"
    """Whose names the checkpoint's tensors had."""
    notes: tuple[str, ...] = ()
    """What else is worth knowing: conversion, tensors that are no weights, another shift."""

    def summary(self) -> str:
        """One line a kind: how many keys, and the first few where something was not loaded."""
        names = "" if self.layout == "native" else f", named by {self.layout}"
        lines = [f"{self.source}: {len(self.matched)} tensors loaded{names}"]
        lines += [f"  {note}" for note in self.notes]
        if self.head:
            lines.append(f"  new head, as initialised: {some(self.head)}")
        if self.missing:
            lines.append(f"  missing, as initialised: {some(self.missing)}")
        if self.unexpected:
            lines.append(f"  unexpected, left out: {some(self.unexpected)}")
        return "\n".join(lines)


def load_weights(
    network: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    replace_head: bool,
    classifier: str,
    source: str,
    allow_partial: bool = False,
    layout: Layout = "native",
    convert: Convert = "none",
) -> LoadReport:
    """Copy a state dict into `network`, wholly or, after an error, not at all.

    Args:
        network: takes the weights; a prefix that a wrapper left on the keys is taken off.
        state_dict: key -> tensor, as published.
        replace_head: leave the classifier as it was initialised: for other classes.
        classifier: dotted path of the classifier in `network`.
        source: names the checkpoint in errors and in the report.
        allow_partial: missing and unexpected keys, and a temporal shift in other blocks, are
            reported instead of refused, as long as half of the network's tensors match.
        layout: whose names the keys are.
        convert: into the other dimension.

    Raises:
        UserError: where a shape differs (the first key, with both shapes), where keys are missing
            or unexpected and `allow_partial` is off, and where it is another network's checkpoint
            or of no layout that is known.
    """
    wanted = dict(network.state_dict())
    published = translate(
        _tensors(state_dict, source), layout=layout, classifier=classifier, source=source
    )
    given = _under_our_names(published, network)
    notes = [
        *_notes_on(published, given),
        *_notes_on_shift(published, network, source, allow_partial),
    ]
    if convert != "none":
        given = convert_weights(
            given, wanted, convert=convert, replace_head=replace_head, source=source
        )
        notes.append(f"converted by {convert}")
    head = tuple(key for key in wanted if replace_head and key.startswith(f"{classifier}."))
    report = replace(
        _compare(given, wanted, head, source), layout=published.layout, notes=tuple(notes)
    )
    _refuse_stranger(report, num_wanted=len(wanted) - len(head), given=state_dict)
    _refuse_other_shapes(report, given, wanted, classifier)
    if not allow_partial and (report.missing or report.unexpected):
        raise UserError(
            f"{source}: does not fit: {_differences(report)}; "
            "give the checkpoint of the same network, or allow a partial load"
        )
    network.load_state_dict({key: given[key] for key in report.matched}, strict=False)
    return report


def _compare(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], head: tuple[str, ...], source: str
) -> LoadReport:
    body = [key for key in wanted if key not in head]
    has_counters = any(key.endswith(_COUNTER) for key in given)
    return LoadReport(
        source=source,
        matched=tuple(key for key in body if key in given),
        missing=tuple(
            key for key in body if key not in given and (has_counters or not key.endswith(_COUNTER))
        ),
        unexpected=tuple(key for key in given if key not in wanted),
        head=head,
    )


def _under_our_names(published: Translated, network: nn.Module) -> dict[str, Tensor]:
    if published.layout == "huggingface":
        # Which names they have depends on the installed transformers.
        return installed_names(published.tensors, set(network.state_dict()))
    return _unwrapped(published.tensors, network.state_dict())


def _notes_on(published: Translated, given: Mapping[str, Tensor]) -> list[str]:
    notes = []
    if published.left_out:
        notes.append(f"no weights, left out: {some(published.left_out)}")
    if num_others := len(published.tensors) - len(given):
        notes.append(f"of another part than the classification, left out: {num_others} tensors")
    return notes


def _notes_on_shift(
    published: Translated, network: nn.Module, source: str, allow_partial: bool
) -> list[str]:
    """A note where the network shifts other blocks than the checkpoint was trained with."""
    if published.shifted is None:
        return []
    ours = {
        name.rpartition(".")[0]
        for name, module in network.named_modules()
        if isinstance(module, TemporalShift)
    }
    if ours == published.shifted:
        return []
    note = (
        f"was trained with temporal shift in {len(published.shifted)} blocks, this network has it "
        f"in {len(ours)}"
    )
    others = sorted(ours ^ published.shifted)
    # Weights that never knew a shift are a usual start for those that will.
    if published.shifted and not allow_partial:
        raise UserError(
            f"{source}: {note}, first difference {others[0]!r}; set model.temporal as it was "
            "trained, or allow a partial load"
        )
    return [f"{note}: {some(others)}"]


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


def _unwrapped(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys with the wrapper's prefix taken off, and our own put on, that make most match."""
    ours = ("", *dict.fromkeys(f"{key.partition('.')[0]}." for key in wanted))

    def num_matches(prefixes: tuple[str, str]) -> int:
        theirs, our = prefixes
        return sum(
            f"{theirs}{key.removeprefix(our)}" in given for key in wanted if key.startswith(our)
        )

    theirs, our = max(product(_WRAPPERS, ours), key=num_matches)  # ("", "") where none is better
    return {f"{our}{key.removeprefix(theirs)}": value for key, value in given.items()}


def _refuse_stranger(report: LoadReport, *, num_wanted: int, given: Mapping[str, Any]) -> None:
    if len(report.matched) >= max(1, _MIN_MATCHED_SHARE * num_wanted):
        return
    raise UserError(
        f"{report.source}: is the checkpoint of another network: {len(report.matched)} of "
        f"{num_wanted} tensors match by name; {_differences(report)}; its keys are {some(given)}"
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

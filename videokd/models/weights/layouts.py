"""Published state dicts under the names of our networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from videokd.errors import UserError
from videokd.models.weights.tables import FAMILIES, Family, Rule

Layout = Literal[
    "auto", "native", "pytorchvideo", "torchvision", "timm", "huggingface", "mmaction2", "mit_tsm"
]
"""Whose names the tensors of a file have. `native`: those of the network that they go into,
whatever wrapper stood before them. `auto` finds out."""

_TOLD_APART = ("mmaction2", "mit_tsm", "huggingface")
"""Layouts that rename. All others have our networks' own names, so that nothing hangs on which."""


class Translated(NamedTuple):
    """A state dict under our names."""

    tensors: dict[str, Tensor]
    layout: str
    shifted: frozenset[str] | None = None
    """The blocks behind a temporal shift; None where the layout does not tell."""
    left_out: tuple[str, ...] = ()
    """Published keys of what is no weight."""


def translate(
    state_dict: Mapping[str, Tensor], *, layout: Layout, classifier: str, source: str
) -> Translated:
    """Give a published state dict the names that our networks have.

    Args:
        state_dict: key -> tensor, as published.
        layout: `auto` recognises it from the keys.
        classifier: dotted path of the classifier in the network, for what the layout calls so.
        source: names the checkpoint in errors.

    Raises:
        UserError: the keys are not of the named layout.
    """
    if layout == "native":
        return Translated(dict(state_dict), layout)
    candidates = _TOLD_APART if layout == "auto" else (layout,)
    for name in candidates:
        for family in FAMILIES[name]:
            if _matches(family.mark, state_dict):
                return _renamed(state_dict, family, name, classifier)
    if layout == "auto":
        return Translated(dict(state_dict), "native")
    raise UserError(
        f"{source}: no checkpoint of layout {layout}: its keys are {some(state_dict)}; "
        "set layout: auto to recognise it"
    )


def some(keys: Iterable[str]) -> str:
    """The first three keys, and how many there are."""
    names = list(keys)
    shown = ", ".join(names[:3])
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})"


def _matches(mark: str, keys: Iterable[str]) -> bool:
    pattern = re.compile(mark)
    return any(pattern.fullmatch(key) for key in keys)


def _renamed(
    state_dict: Mapping[str, Tensor], family: Family, layout: str, classifier: str
) -> Translated:
    left_out = tuple(k for k in state_dict if family.left_out and re.fullmatch(family.left_out, k))
    tensors = {
        (_new_name(key, family.rules) or key).replace("{classifier}", classifier): value
        for key, value in state_dict.items()
        if key not in left_out
    }
    shifted = None
    if family.shifts:
        blocks = (_new_name(key, family.shifts) for key in state_dict)
        shifted = frozenset(block for block in blocks if block is not None)
    return Translated(tensors, layout, shifted, left_out)


def _new_name(key: str, rules: tuple[Rule, ...]) -> str | None:
    for pattern, name in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return None

"""Names of the classes that published classifiers tell apart, in their order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from videokd.errors import UserError


def published_classes(dataset: str) -> tuple[str, ...] | None:
    """The class names of a data set in the order of published classifiers; None: not known here.

    Kinetics-400's are those of torchvision's weights; mmaction2's and MIT's lists are the same.
    """
    if dataset != "kinetics400":
        return None
    from torchvision.models.video import R3D_18_Weights  # type: ignore[import-untyped]

    return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])


def refuse_other_classes(
    theirs: Sequence[str],
    ours: Sequence[str],
    *,
    source: str,
    whose: str,
    advice: str = "set init.replace_head: true to start a new classifier",
) -> None:
    """Compare class names, but for case and everything that is no letter or digit.

    Args:
        theirs: what the outputs of the trained classifier mean.
        ours: what the index says they are to mean.
        source: names the checkpoint in errors.
        whose: says what `theirs` are, such as "its data set kinetics400".
        advice: what to do about it.

    Raises:
        UserError: another number of classes, or the first class that differs.
    """
    if len(theirs) != len(ours):
        raise UserError(
            f"{source}: {whose} has {len(theirs)} classes, the index has {len(ours)}; {advice}"
        )
    for number, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if _letters(their) != _letters(our):
            raise UserError(
                f"{source}: class {number} is {their!r} in {whose} and {our!r} in the index; "
                f"{advice}, or list the classes in the published order"
            )


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())

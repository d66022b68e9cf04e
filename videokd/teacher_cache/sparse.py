"""The largest logits of a clip instead of all of them, and back.

Letters: **N** clips, **K** classes, **k** of them that are kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class TopLogits(NamedTuple):
    """What is kept of [N, K] logits."""

    logits: torch.Tensor
    """float16 [N, k], falling."""
    class_ids: torch.Tensor
    """int32 [N, k]."""
    others_logsumexp: torch.Tensor
    """float32 [N], of the K - k logits that are not kept; -inf where there are none."""


def top_logits(logits: torch.Tensor, top_k: int) -> TopLogits:
    """The `top_k` largest of each row, [N, K]."""
    falling, ids = logits.float().sort(dim=1, descending=True, stable=True)
    others = falling[:, top_k:].logsumexp(dim=1)
    return TopLogits(falling[:, :top_k].half(), ids[:, :top_k].int(), others)


def filled_logits(top: TopLogits, num_classes: int) -> torch.Tensor:
    """float32 [N, K]: the kept logits in their places, and one constant in all others.

    The constant keeps the logsumexp of the others: at temperature 1 every kept class has its own
    probability and the others share evenly what is left ("marginal smoothing": Shen and Xing, A
    Fast Knowledge Distillation Framework for Visual Recognition, ECCV 2022). With k = K nothing is
    filled.

    At a temperature T above 1 the others get no less than they had (a mean of roots is at most the
    root of the mean), and what is wrong is bounded by what they get: the total variation between
    the teacher's softened probabilities and these is at most the share of the filled classes in
    these. A soft target that leans on many small classes therefore wants a larger k.
    """
    kept = top.logits.float()
    num_others = num_classes - kept.shape[1]
    constant = top.others_logsumexp[:, None] - math.log(max(1, num_others))
    return constant.repeat(1, num_classes).scatter(1, top.class_ids.long(), kept)

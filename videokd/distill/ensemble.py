"""Several teachers as one: a weighted mean of their logits, each one's taps under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from videokd.distill.projections import align_steps
from videokd.types import ModelOutput, TapShape

Combination = Literal["mean", "weighted", "confidence"]


def combine_teachers(
    outputs: Mapping[str, ModelOutput],
    *,
    how: Combination,
    weights: Mapping[str, float] | None = None,
    targets: torch.Tensor,
    has_label: torch.Tensor,
) -> ModelOutput:
    """One output from those of several teachers for the same N clips.

    - **logits**: `sum_k w_k z_k`, the weights of each clip summing to 1. Logits are averaged and
      not, as by You et al. (KDD 2017), softened probabilities, so the result does not depend on the
      order of averaging and a temperature; the two differ, and agree only where teachers do.
    - **taps**: all of them, as `TEACHER.TAP`. Features of different networks have no common axes,
      so they are not averaged; a term names the teacher that it learns from.
    - **pooled**: one after the other, [N, sum of D], in the order of `outputs`; for the same reason
      never averaged, and so untouched by the weights.
    - **attention**: `sum_k w_k a_k`, each read at the seconds of the first teacher's steps and made
      to sum to 1 again. None where a teacher has none.

    Args:
        outputs: teacher -> its output, one a video (`merge_views`).
        how: `mean`: w_k = 1 / teachers. `weighted`: `weights`, divided by their sum. `confidence`:
            by `confidence_weights`, of each clip by itself.
        weights: teacher -> at least 0; for `weighted` only.
        targets: float [N, K], read for `confidence` only.
        has_label: bool [N], read for `confidence` only.

    Returns:
        float32; no gradient is stopped here.

    Raises:
        ValueError: no teacher, weights that do not fit the teachers, or outputs of another N or K.
    """
    names = list(outputs)
    _check(outputs, how=how, weights=weights)
    logits = torch.stack([outputs[name].logits.float() for name in names])
    if how == "confidence":
        shares = confidence_weights(logits, targets, has_label)
    else:
        given = [1.0 if weights is None else weights[name] for name in names]
        shares = logits.new_tensor(given)[:, None].expand(logits.shape[:2]) / sum(given)
    attention, attention_seconds = _mean_attention([outputs[name] for name in names], shares)
    return ModelOutput(
        logits=(shares[:, :, None] * logits).sum(dim=0),
        pooled=torch.cat([outputs[name].pooled.float() for name in names], dim=1),
        taps={
            f"{name}.{tap}": features
            for name in names
            for tap, features in outputs[name].taps.items()
        },
        attention=attention,
        attention_seconds=attention_seconds,
    )


def confidence_weights(
    logits: torch.Tensor, targets: torch.Tensor, has_label: torch.Tensor
) -> torch.Tensor:
    """How far each of k teachers is to be trusted with each clip, summing to 1 over teachers.

    `w_k = (1 - exp(CE_k) / sum_j exp(CE_j)) / (teachers - 1)`, CE_k the cross entropy of teacher k
    with the clip's label (CA-MKD, Zhang et al., ICASSP 2022; there they weigh each teacher's loss,
    here its logits). For a clip without a label the entropy of the teacher's own prediction, which
    is what its cross entropy would be on average if it were right about its own odds, stands in for
    CE_k; that a lower entropy earns a teacher more weight is from Kwon et al., ICASSP 2020. Several
    labels of a clip (mixed, or multi-label) count by their share.

    Args:
        logits: [teachers, N, K].
        targets: [N, K], at least 0.
        has_label: bool [N].

    Returns:
        [teachers, N]; the weight of the only teacher is 1.
    """
    num_teachers = len(logits)
    if num_teachers == 1:
        return torch.ones_like(logits[:, :, 0])
    # Bounded, so that a class that is ruled out costs 0 times a number and not 0 times infinity.
    log_odds = F.log_softmax(logits, dim=2).clamp(min=-1e30)
    shares = targets / targets.sum(dim=1, keepdim=True).clamp(min=1e-12)
    # A target that is no number behind a missing label must not reach the sum.
    believed = torch.where(has_label[:, None], shares, log_odds.exp())
    surprise = -(believed * log_odds).sum(dim=2)
    return (1 - surprise.softmax(dim=0)) / (num_teachers - 1)


def combined_tap_shapes(
    shapes: Mapping[str, Mapping[str, TapShape]],
) -> dict[str, TapShape]:
    """`TEACHER.TAP` -> shape, as `combine_teachers` names them, from each teacher's own."""
    return {f"{name}.{tap}": shape for name, taps in shapes.items() for tap, shape in taps.items()}


def _mean_attention(
    outputs: Sequence[ModelOutput], shares: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """[N, t] and when its steps were; `shares` are [teachers, N]."""
    wanted = outputs[0].attention_seconds
    mean = torch.zeros((), device=shares.device)
    for output, share in zip(outputs, shares, strict=True):
        if output.attention is None or output.attention_seconds is None or wanted is None:
            return None, None
        read = align_steps(output.attention.float(), output.attention_seconds, wanted)
        mean = mean + share[:, None] * read / read.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return mean, wanted


def _check(
    outputs: Mapping[str, ModelOutput], *, how: Combination, weights: Mapping[str, float] | None
) -> None:
    if not outputs:
        raise ValueError("there is no teacher to combine")
    shapes = {name: tuple(output.logits.shape) for name, output in outputs.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"teachers must have logits of one shape [N, K], not {shapes}")
    if (how == "weighted") != (weights is not None):
        raise ValueError("weights are for 'weighted', and 'weighted' needs them")
    if weights is None:
        return
    if set(weights) != set(outputs):
        raise ValueError(f"weights are of {sorted(weights)}, the teachers are {sorted(outputs)}")
    if min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"weights must be at least 0 and not all 0, not {dict(weights)}")

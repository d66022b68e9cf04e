"""A teacher that saw several clips of each video, brought down to one output a video."""

from __future__ import annotations

import torch

from videokd.types import ModelOutput, TapOutput


def merge_views(output: ModelOutput, num_views: int) -> ModelOutput:
    """One output a video from `num_views` clips of each; N = B * num_views, a video's side by side.

    Logits and pooled features become their means over the views. (The mean of logits, not the
    logarithm of the mean softmax: it commutes with a temperature.) Taps keep all their steps:
    joined along time and sorted by seconds, [B, C, num_views*t, h, w]. Attention likewise, scaled
    so that it sums to 1 again.

    Raises:
        ValueError: where N is no multiple of `num_views`, or attention has no seconds.
    """
    num_clips = output.logits.shape[0]
    if num_views < 1 or num_clips % num_views:
        raise ValueError(f"{num_clips} clips are not whole videos of {num_views} views each")
    if num_views == 1:
        return output
    attention, attention_seconds = output.attention, output.attention_seconds
    if attention is not None:
        if attention_seconds is None:
            raise ValueError("attention without attention_seconds cannot be put in order")
        attention, attention_seconds = _join_steps(attention, attention_seconds, num_views)
        attention = attention / num_views
    return ModelOutput(
        logits=output.logits.unflatten(0, (-1, num_views)).mean(dim=1),
        pooled=output.pooled.unflatten(0, (-1, num_views)).mean(dim=1),
        taps={name: _merge_tap(tap, num_views) for name, tap in output.taps.items()},
        attention=attention,
        attention_seconds=attention_seconds,
    )


def _merge_tap(tap: TapOutput, num_views: int) -> TapOutput:
    steps, seconds = _join_steps(tap.features.movedim(2, 1), tap.step_seconds, num_views)
    return TapOutput(features=steps.movedim(1, 2), step_seconds=seconds)


def _join_steps(
    values: torch.Tensor, seconds: torch.Tensor, num_views: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B*V, t, ...] and [B*V, t] to [B, V*t, ...] and [B, V*t], by rising seconds."""
    joined = values.unflatten(0, (-1, num_views)).flatten(1, 2)
    ordered, order = seconds.unflatten(0, (-1, num_views)).flatten(1, 2).sort(dim=1, stable=True)
    rows = torch.arange(len(joined), device=joined.device)[:, None]
    return joined[rows, order], ordered

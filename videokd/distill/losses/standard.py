"""Zero mean and unit spread: what Pearson's correlation and standardised logits are made of."""

from __future__ import annotations

import torch


def standardised(
    values: torch.Tensor, *, dim: int, over: torch.Tensor | None = None
) -> torch.Tensor:
    """`(values - mean) / std` along a dimension, std the root of the mean square (no n - 1).

    What is constant to within rounding has no direction: it becomes 0, and no gradient passes.
    The published codes add a small number to std, or to a product of two, instead. Then what is
    small counts less, though the formula does not know scale, and a constant input gets a
    gradient of the inverse of that number.

    Args:
        values: any shape.
        dim: mean and std run along it.
        over: what mean and std are of, the same shape but along `dim`; None: `values` themselves.

    Returns:
        The shape of `values`.
    """
    over = values if over is None else over
    mean = over.mean(dim=dim, keepdim=True)
    centred = over - mean
    peak = centred.detach().abs().amax(dim=dim, keepdim=True)
    number = torch.finfo(over.dtype)
    rounding = 8 * number.eps * over.detach().abs().amax(dim=dim, keepdim=True)
    # The gradient has the inverse of the peak in it, which must not overflow.
    is_constant = peak <= rounding + number.tiny / number.eps
    # In units of the largest, so that no square underflows. Masked twice: a 0 behind a root would
    # not stop the NaN of the root's gradient.
    scale = torch.where(is_constant, 1, peak)
    mean_square = (centred / scale).square().mean(dim=dim, keepdim=True)
    spread = torch.where(is_constant, 1, mean_square).sqrt()
    return torch.where(is_constant, 0, (values - mean) / scale / spread)

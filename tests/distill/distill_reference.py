"""The published formulas once more, in float64 loops, and gradients by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from videokd.types import ModelOutput, TapOutput


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def kl(wanted: np.ndarray, given: np.ndarray) -> float:
    return sum(p * math.log(p / q) for p, q in zip(wanted, given, strict=True) if p > 0)


def soft_targets(student: np.ndarray, teacher: np.ndarray, temperature: float) -> list[float]:
    return [
        temperature**2 * kl(softmax(t / temperature), softmax(s / temperature))
        for s, t in zip(student, teacher, strict=True)
    ]


def cross_entropy(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> list[float]:
    num_classes = logits.shape[1]
    smoothed = (1 - smoothing) * targets + smoothing / num_classes
    return [
        -sum(q * math.log(p) for p, q in zip(softmax(z), y, strict=True))
        for z, y in zip(logits, smoothed, strict=True)
    ]


def interpolate(values: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[t, ...] at rising `known`, read at `wanted`: numpy's own interpolation, a cell at a time."""
    flat = values.reshape(len(known), -1)
    read = np.stack([np.interp(wanted, known, column) for column in flat.T], axis=1)
    return read.reshape(len(wanted), *values.shape[1:])


def pool(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Adaptive average pooling of [h, w], by the definition of its windows."""
    pooled = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * plane.shape[0] // size[0], -(-(i + 1) * plane.shape[0] // size[0]))
            cells = slice(j * plane.shape[1] // size[1], -(-(j + 1) * plane.shape[1] // size[1]))
            pooled[i, j] = plane[rows, cells].mean()
    return pooled


def on_one_grid(
    student: np.ndarray,
    teacher: np.ndarray,
    student_seconds: np.ndarray,
    teacher_seconds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One clip, [t, C, h, w] each: at the student's seconds, on the coarser grid."""
    teacher = interpolate(teacher, teacher_seconds, student_seconds)
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return tuple(  # type: ignore[return-value]
        np.stack([[pool(plane, size) for plane in step] for step in side])
        for side in (student, teacher)
    )


def numeric_gradient(loss: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences, one element at a time."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        gradient[index] = (loss(at + step) - loss(at - step)) / 2e-5
    return gradient


def value_and_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per-clip losses of float64 torch code, and the gradient of their sum."""
    tensor = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    losses = loss(tensor)
    losses.sum().backward()
    assert tensor.grad is not None
    return losses.detach().numpy(), tensor.grad.numpy()


def random_tap(
    shape: tuple[int, int, int, int, int], seed: int, *, span_seconds: float = 1.0
) -> TapOutput:
    """float64 features [N, C, t, h, w] and rising, uneven seconds [N, t]."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    gaps = 0.2 + torch.rand(shape[0], shape[2], generator=generator, dtype=torch.float64)
    seconds = gaps.cumsum(dim=1)
    return TapOutput(features, seconds * (span_seconds / seconds[:, -1:]))


def random_output(
    num_clips: int, num_classes: int, seed: int, **taps: tuple[int, int, int, int]
) -> ModelOutput:
    """float32, with named taps (C, t, h, w) and attention of 4 + seed % 3 steps."""
    generator = torch.Generator().manual_seed(seed)
    steps = 4 + seed % 3
    seconds = torch.linspace(0, 1, steps).repeat(num_clips, 1)
    made = {
        name: random_tap((num_clips, *shape), seed + 1 + position)
        for position, (name, shape) in enumerate(taps.items())
    }
    return ModelOutput(
        logits=torch.randn(num_clips, num_classes, generator=generator),
        pooled=torch.randn(num_clips, 7, generator=generator),
        taps={
            n: TapOutput(tap.features.float(), tap.step_seconds.float()) for n, tap in made.items()
        },
        attention=torch.randn(num_clips, steps, generator=generator).softmax(dim=1),
        attention_seconds=seconds,
    )

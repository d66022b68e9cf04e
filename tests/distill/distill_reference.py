"""The published formulas once more, in float64 loops, and gradients by central differences."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

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


def standardise(logits: np.ndarray) -> np.ndarray:
    return np.stack(
        [(row - row.mean()) / math.sqrt(((row - row.mean()) ** 2).mean()) for row in logits]
    )


def decoupled(
    student: np.ndarray,
    teacher: np.ndarray,
    targets: np.ndarray,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> list[float]:
    """DKD by its definition: the target classes and the rest, then the rest renormalised."""
    losses = []
    for s, t, y in zip(student, teacher, targets, strict=True):
        q, p = softmax(s / temperature), softmax(t / temperature)
        is_target = y > 0
        q_rest, p_rest = q[~is_target], p[~is_target]
        tckd = kl(
            np.append(p[is_target], p_rest.sum() if len(p_rest) else 0),
            np.append(q[is_target], q_rest.sum() if len(q_rest) else 1),
        )
        nckd = kl(p_rest / p_rest.sum(), q_rest / q_rest.sum()) if len(p_rest) else 0.0
        losses.append(temperature**2 * (alpha * tckd + beta * nckd))
    return losses


def dist(
    student: np.ndarray, teacher: np.ndarray, *, temperature: float, beta: float, gamma: float
) -> float:
    """DIST of a whole batch, with numpy's own correlation."""
    q = np.stack([softmax(row / temperature) for row in student])
    p = np.stack([softmax(row / temperature) for row in teacher])
    over_classes = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    over_batch = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    return temperature**2 * (beta * np.mean(over_classes) + gamma * np.mean(over_batch))


def binary_soft_targets(
    student: np.ndarray, teacher: np.ndarray, temperature: float
) -> list[float]:
    q, p = (1 / (1 + np.exp(-side / temperature)) for side in (student, teacher))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return list(temperature**2 * divergence.mean(axis=1))


def agrees_in_float32(
    loss: Callable[[torch.Tensor], torch.Tensor],
    formula: Callable[[np.ndarray], float],
    at: np.ndarray,
) -> None:
    """The mean of float32 losses and its gradient are the formula's in float64, to 1e-5.

    Of a gradient, to 1e-5 of its largest element.
    """
    tensor = torch.tensor(at, dtype=torch.float32, requires_grad=True)
    value = loss(tensor).mean()
    value.backward()
    assert value.dtype == torch.float32
    assert tensor.grad is not None
    np.testing.assert_allclose(value.item(), formula(at), rtol=1e-5)
    wanted = numeric_gradient(formula, at)
    np.testing.assert_allclose(
        tensor.grad.numpy(), wanted, rtol=1e-5, atol=1e-5 * float(np.abs(wanted).max())
    )


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


def numeric_gradients(losses: Callable[..., list[float]], *at: np.ndarray) -> list[np.ndarray]:
    """Of the sum of per-clip losses, by each of their arguments."""

    def total_at(position: int, point: np.ndarray) -> float:
        return sum(losses(*at[:position], point, *at[position + 1 :]))

    return [numeric_gradient(partial(total_at, i), point) for i, point in enumerate(at)]


def value_and_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per-clip losses of float64 torch code, and the gradient of their sum."""
    tensor = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    losses = loss(tensor)
    losses.sum().backward()
    assert tensor.grad is not None
    return losses.detach().numpy(), tensor.grad.numpy()


def relative_error(given: torch.Tensor | np.ndarray, wanted: torch.Tensor | np.ndarray) -> float:
    """|given - wanted| / |wanted|, the norms over all elements."""
    ours, truth = (
        np.asarray(side.detach() if isinstance(side, torch.Tensor) else side, dtype=np.float64)
        for side in (given, wanted)
    )
    assert ours.shape == truth.shape
    return float(np.linalg.norm(ours - truth) / np.linalg.norm(truth))


def gradients(value: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """Of one scalar, by several leaves."""
    return list(torch.autograd.grad(value, leaves))


def one_step(images: torch.Tensor) -> TapOutput:
    """Images [N, C, h, w] as taps of clips of a single step."""
    return TapOutput(images[:, :, None], torch.zeros(len(images), 1))


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


def on_ranks(num_ranks: int, run: Callable[[int, Callable], object]) -> list:
    """What `run(rank, gather)` returns on each rank, all in one process and one autograd graph.

    Gathers meet each other across ranks in the order in which each rank calls them, as collectives
    do; what they join may have different numbers of rows.
    """
    barrier = threading.Barrier(num_ranks, timeout=60)
    slots: list[torch.Tensor | None] = [None] * num_ranks

    def gather_on(rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def gather(rows: torch.Tensor) -> torch.Tensor:
            slots[rank] = rows
            barrier.wait()
            joined = torch.cat(slots)
            barrier.wait()
            return joined

        return gather

    with ThreadPoolExecutor(num_ranks) as threads:
        return list(threads.map(lambda rank: run(rank, gather_on(rank)), range(num_ranks)))

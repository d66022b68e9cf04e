"""The training loop: one loop for teachers, controls and distilled students.

It knows a student, a frozen teacher or none, an objective, and a loader; nothing of recipes. All
chance in a step comes from (seed, step, rank), so a run that is cut anywhere and started again
ends with the same weights, bit for bit on the same CPU, threads and versions.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from videokd.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from videokd.config import Config
from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.loading import TrainLoader
from videokd.distill.objective import Objective, merge_views
from videokd.engine.optim import (
    OptimConfig,
    WeightAverage,
    create_optimizer,
    freeze_batch_norm,
    lr_at,
    set_lr,
)
from videokd.errors import UserError
from videokd.models.video_model import Frozen, VideoModel
from videokd.tracking import Sink
from videokd.types import ClipBatch, ModelOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SEED_OF_STEPS = 1
"""Sets the steps' random numbers apart from those of other uses of the same seed."""


class TrainConfig(Config):
    """How long, how fast, and what is kept on the way."""

    epochs: int = Field(ge=0)
    """Passes over the training videos; the last partial batch of a pass is left out. 0 takes the
    first weights as they are: published ones become a run folder, validated and ready to teach."""
    batch_size: int = Field(ge=1)
    """Clips per optimiser step, over all processes and accumulated parts together: one of each
    video, or `data.repeats`."""
    accumulate: int = Field(1, ge=1)
    """Parts that a process cuts its share of a batch into, one after another: saves memory."""
    optim: OptimConfig
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Averages the weights; the average is what is validated and kept as best."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest L2 norm of all gradients together."""
    freeze_batch_norm: bool = False
    """Batch norms keep loaded statistics and weights: for small batches on trained weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the device is a GPU that has it, else fp32."""
    log_every_steps: int = Field(20, ge=1)
    """Scalars are read from the device on these steps alone."""
    validate_every_epochs: int = Field(1, ge=1)
    """The last epoch is always validated."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads that compute on a CPU; null: one a core. Small networks beside a decoding worker are
    faster with fewer, and results are bit-identical for the same number only."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """`last.pt` is written this often besides the end of each epoch."""
    tensorboard: bool = True
    """Event files in the run folder."""
    wandb: bool = False
    """Weights & Biases, from the extra `videokd[wandb]`."""


class Interrupted(UserError):
    """Ctrl-C or SIGTERM: the step was finished and all of it is in `last.pt`."""


@dataclass(frozen=True)
class Validation:
    """What validation videos say of the weights at one moment."""

    top1_pct: float
    cross_entropy: float
    """Mean negative log-likelihood of the true class; decides between equal top-1."""

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return (self.top1_pct, -self.cross_entropy)


@dataclass
class TrainState:
    """What changes from step to step besides weights; all of it is in `last.pt`."""

    step: int = 0
    """Optimiser steps done."""
    best: dict[str, float] | None = None
    """Step, top1_pct and cross_entropy of `best.pt`."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Video id -> file and reason, of videos that did not decode and were left out."""
    seconds: float = 0.0
    """Time spent in training steps and validation, over all starts of the run."""


class Learner(nn.Module):
    """Student and objective as one module, so that projections train, sync and resume with it."""

    def __init__(self, student: VideoModel, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        clips: torch.Tensor,
        batch: ClipBatch,
        teacher: ModelOutput | None,
        progress: float,
        gather: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to backpropagate and its weighted terms; `clips` are the student's."""
        output = self.student(clips, batch.frame_seconds["student"].flatten(0, 1))
        loss = self.objective(output, teacher, batch, progress=progress, gather=gather)
        return loss.total, loss.terms


class Trainer:
    """One training run: `fit()` goes from where `last.pt` stands to the end."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        student: VideoModel,
        teacher: Frozen | None,
        objective: Objective,
        loader: TrainLoader,
        config: TrainConfig,
        run_dir: Path,
        seed: int,
        identity: Mapping[str, Any],
        max_unreadable_pct: float,
        validate: Callable[[VideoModel], Validation] | None = None,
    ) -> None:
        """`identity` (recipe, classes, input) is written into every checkpoint.

        `loader` yields this process's whole share of each step's batch. Without `validate` the
        last weights are the best.
        """
        self.fabric = fabric
        self.config = config
        self.loader = loader
        self.run_dir = run_dir
        self.seed = seed
        self.identity = dict(identity)
        self.max_unreadable_pct = max_unreadable_pct
        self.validate = validate
        self.steps_per_epoch = loader.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.state = TrainState()
        if config.freeze_batch_norm:
            freeze_batch_norm(student)
        learner = Learner(student, objective)
        head = student.classifier_parameters()
        self.optimizer = create_optimizer(config.optim, learner, head=head)
        self.learner = learner
        self.teacher = teacher.to(fabric.device) if teacher is not None else None
        self._wrapped, self._wrapped_optimizer = fabric.setup(learner, self.optimizer)
        self.average = (
            WeightAverage(learner.student, config.ema_decay) if config.ema_decay else None
        )

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.state.step >= self.total_steps

    def resume(self) -> bool:
        """Go to where `last.pt` stands; False where there is none."""
        path = self.run_dir / LAST
        if not path.exists():
            return False
        content = load_checkpoint(path)
        if "optimizer" not in content:
            raise UserError(f"{path}: not a {LAST}; remove it to train again from the beginning")
        for name, mine in self.identity.items():
            # The recipe was compared before; these are the files that it names.
            if name != "recipe" and content.get(name) != mine:
                raise UserError(
                    f"{path}: was trained with another {name.replace('_', ' ')} than is there "
                    "now; bring the old one back, or set another output_dir"
                )
        self.learner.student.load_state_dict(content["model"])
        self.learner.objective.load_state_dict(content["objective"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.state = {
                name: value.to(self.fabric.device) for name, value in content["average"].items()
            }
        self.state = TrainState(**content["state"])
        return True

    def fit(
        self, sinks: Sequence[Sink] = (), *, on_progress: Callable[[int, int, str], None]
    ) -> TrainState:
        """Train to the end; `best.pt` and `last.pt` lie in the run folder then.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with everything saved.
            UserError: too many unreadable videos, or a loss that is no number.
        """
        if not self.total_steps:
            self._keep_first_weights(sinks)
            return self.state
        note = ""
        started = time.monotonic() - self.state.seconds
        self.loader.quarantine(self.state.unreadable)
        batches = self.loader.batches(self.state.step, self.total_steps)
        with _stop_signal() as signalled:
            for batch in batches:
                step = self.state.step
                self._note_unreadable(batch)
                terms = self._step(batch, step)
                self.state.step = step + 1
                self.state.seconds = time.monotonic() - started
                is_log_step = step % self.config.log_every_steps == 0
                epoch_ended = self.state.step % self.steps_per_epoch == 0
                stop = self._anyone(signalled(), now=is_log_step or epoch_ended)
                is_saved = epoch_ended or self._is_checkpoint_step() or stop
                if is_log_step or is_saved:
                    # Before anything is kept: weights that are no numbers never reach the disk.
                    scalars = self._read(terms, step)
                    note = f"loss {scalars['loss']:.3f}"
                if is_log_step:
                    _log(sinks, step, scalars)
                if epoch_ended and self._is_validation_epoch():
                    note = self._validate(sinks)
                    self.state.seconds = time.monotonic() - started
                if is_saved:
                    self._share_unreadable()
                    self._save_last()
                on_progress(self.state.step, self.total_steps, note)
                if stop:
                    raise Interrupted(
                        f"stopped at step {self.state.step} of {self.total_steps}, saved in "
                        f"{self.run_dir / LAST}; start the same command again to go on"
                    )
        return self.state

    def _keep_first_weights(self, sinks: Sequence[Sink]) -> None:
        """Without an epoch: what was loaded is validated and is both the best and the last."""
        started = time.monotonic()
        self._validate(sinks)
        self.state.seconds = time.monotonic() - started
        self._save_last()

    def _step(self, batch: ClipBatch, step: int) -> dict[str, torch.Tensor]:
        """One optimiser step over this process's share of the batch; the terms, on the device."""
        torch.manual_seed(_step_seed(self.seed, step, self.fabric.global_rank))
        config = self.config
        self._wrapped.train()
        if config.freeze_batch_norm:
            freeze_batch_norm(self.learner.student)
        factor = lr_at(
            step,
            total_steps=self.total_steps,
            warmup_steps=round(config.optim.warmup_epochs * self.steps_per_epoch),
            final_fraction=config.optim.final_lr_fraction,
        )
        set_lr(self.optimizer, config.optim.lr * factor)
        batch = batch.to(self.fabric.device, non_blocking=True)
        targets, has_label = mixed_targets(batch)
        batch = dataclasses.replace(batch, targets=targets, has_label=has_label)
        parts, shares = self._parts(batch)
        sums: dict[str, torch.Tensor] = {}
        first = 0
        for position, (part, share) in enumerate(zip(parts, shares, strict=True)):
            is_last = position == len(parts) - 1
            videos = range(first, first + part.num_videos)
            first = videos.stop
            with self.fabric.no_backward_sync(self._wrapped, enabled=not is_last):
                total, terms = self._forward(batch, part, videos, step)
                self.fabric.backward(total * share)
            for name, value in {"loss": total.detach(), **terms}.items():
                sums[name] = sums.get(name, 0) + value * share
        if config.clip_grad_norm is not None:
            norm = self.fabric.clip_gradients(
                self._wrapped,
                self._wrapped_optimizer,
                max_norm=config.clip_grad_norm,
                error_if_nonfinite=False,  # `_read` says it in a line
            )
            assert norm is not None
            sums["grad_norm"] = norm
        self._wrapped_optimizer.step()
        self._wrapped_optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.learner.student, step)
        return sums

    def _parts(self, batch: ClipBatch) -> tuple[list[ClipBatch], list[float]]:
        """The accumulated parts of a step and what each weighs in its mean, summing to 1.

        All processes run the same number of parts, none of them empty, or they would wait for each
        other: a batch that lost videos may have fewer than `accumulate`.
        """
        num_parts = min(self.config.accumulate, batch.num_videos)
        if self.fabric.world_size == 1 or self.config.accumulate == 1:
            parts = batch.split(num_parts)
            return parts, [part.num_videos / batch.num_videos for part in parts]
        device = self.fabric.device
        least = torch.tensor(num_parts, device=device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        parts = batch.split(int(least))
        sizes = torch.tensor([part.num_videos for part in parts], device=device)
        torch.distributed.all_reduce(sizes)
        return parts, (sizes / sizes.sum()).tolist()

    def _forward(
        self, batch: ClipBatch, part: ClipBatch, videos: range, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a part of the batch, `videos` of it; mixed clips may need the others."""
        teacher_output = None
        if self.teacher is not None:
            num_views = part.frames["teacher"].shape[1]
            with self.fabric.autocast():
                output = self.teacher(
                    augmented_clips(batch, "teacher", videos=videos),
                    part.frame_seconds["teacher"].flatten(0, 1),
                )
            teacher_output = merge_views(output, num_views)
        clips = augmented_clips(batch, "student", videos=videos)
        # Draws stay here: Fabric would walk through them on every call.
        part = dataclasses.replace(part, draws=[])
        gather = self._gather if self.fabric.world_size > 1 else None
        return self._wrapped(clips, part, teacher_output, step / self.total_steps, gather)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        gathered = self.fabric.all_gather(tensor)
        assert isinstance(gathered, torch.Tensor)
        return gathered.flatten(0, 1)

    def _read(self, terms: Mapping[str, torch.Tensor], step: int) -> dict[str, float]:
        """Scalars of one step. This waits for the device, so it is done on log steps alone."""
        # A process knows its share of the batch; the mean over processes is the batch's.
        values = self.fabric.all_reduce(torch.stack(list(terms.values())), reduce_op="mean")
        scalars = dict(zip(terms, torch.as_tensor(values).tolist(), strict=True))
        if not all(map(math.isfinite, scalars.values())):
            detail = ", ".join(f"{name} {value:g}" for name, value in scalars.items())
            raise UserError(
                f"the loss is no number at step {step} ({detail}); lower train.optim.lr or set "
                "train.clip_grad_norm"
            )
        lr = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_factor"]
        return {**scalars, "lr": lr, "epoch": step / self.steps_per_epoch}

    def _anyone(self, flag: bool, *, now: bool) -> bool:
        """Whether any process says so. All of them ask at the same steps, or they would wait."""
        if self.fabric.world_size == 1:
            return flag
        if not now:
            return False
        mine = torch.tensor(float(flag), device=self.fabric.device)
        return bool(torch.as_tensor(self.fabric.all_reduce(mine, reduce_op="sum")) > 0)

    def _share_unreadable(self) -> None:
        """Each process meets its own unreadable videos; the checkpoint holds everyone's."""
        if self.fabric.world_size > 1:
            found: list[dict[int, str]] = [{}] * self.fabric.world_size
            torch.distributed.all_gather_object(found, self.state.unreadable)
            self.state.unreadable = {i: reason for part in found for i, reason in part.items()}
            self.loader.quarantine(self.state.unreadable)

    def _note_unreadable(self, batch: ClipBatch) -> None:
        for video_id, reason in batch.unreadable:
            self.state.unreadable[video_id] = reason
        share_pct = 100 * len(self.state.unreadable) / self.loader.num_videos
        if share_pct > self.max_unreadable_pct:
            reason = next(iter(self.state.unreadable.values()))
            raise UserError(
                f"{len(self.state.unreadable)} of {self.loader.num_videos} training videos cannot "
                f"be read, more than data.max_unreadable_pct {self.max_unreadable_pct:g}; the "
                f"first: {reason}; index the videos again, or raise the limit"
            )

    def _is_validation_epoch(self) -> bool:
        epoch = self.state.step // self.steps_per_epoch
        return self.finished or epoch % self.config.validate_every_epochs == 0

    def _is_checkpoint_step(self) -> bool:
        every = self.config.checkpoint_every_steps
        return every is not None and self.state.step % every == 0

    def _validate(self, sinks: Sequence[Sink]) -> str:
        """Validate the weights that would be kept; write `best.pt` when they are the best yet."""
        self._share_statistics()
        with self._weights_to_keep():
            if self.validate is None:
                self._save_best()
                return ""
            result = self.validate(self.learner.student)
            if not math.isfinite(result.cross_entropy):
                raise UserError(
                    f"the validation loss is no number after step {self.state.step}; lower "
                    "train.optim.lr or set train.clip_grad_norm"
                )
            best = self.state.best
            if best is None or result.rank > (best["top1_pct"], -best["cross_entropy"]):
                self.state.best = {"step": self.state.step, **dataclasses.asdict(result)}
                self._save_best()
        scalars = {f"val_{name}": value for name, value in dataclasses.asdict(result).items()}
        _log(sinks, max(0, self.state.step - 1), scalars)
        assert self.state.best is not None
        return f"val top-1 {result.top1_pct:.1f} %, best {self.state.best['top1_pct']:.1f} %"

    def _share_statistics(self) -> None:
        """All processes validate one network: batch norm's statistics are those that are saved."""
        if self.fabric.world_size > 1:
            averages = self.average.state.values() if self.average is not None else ()
            for tensor in (*self.learner.student.buffers(), *averages):
                torch.distributed.broadcast(tensor, src=0)

    @contextmanager
    def _weights_to_keep(self) -> Iterator[None]:
        if self.average is None:
            yield
        else:
            with self.average.applied_to(self.learner.student):
                yield

    def _save_best(self) -> None:
        """What using the network needs, and no more; called with the weights to keep in place."""
        if self.fabric.is_global_zero:
            content = {
                **self.identity,
                "model": self.learner.student.state_dict(),
                "state": dataclasses.asdict(self.state),
            }
            save_checkpoint(self.run_dir / BEST, content)

    def _save_last(self) -> None:
        if self.fabric.is_global_zero:
            content = {
                **self.identity,
                "model": self.learner.student.state_dict(),
                "objective": self.learner.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state if self.average is not None else None,
                "state": dataclasses.asdict(self.state),
            }
            save_checkpoint(self.run_dir / LAST, content)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """What dropout and its like draw from, a function of the step: resuming needs no RNG state."""
    sequence = np.random.SeedSequence([seed, _SEED_OF_STEPS, step, rank])
    return int(sequence.generate_state(1, np.uint64)[0])


def _log(sinks: Sequence[Sink], step: int, scalars: Mapping[str, float]) -> None:
    for sink in sinks:
        sink.log(step, scalars)


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question the loop asks after each step.

    A second SIGINT stops at once. Only the main thread may set handlers; elsewhere nothing is set.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)

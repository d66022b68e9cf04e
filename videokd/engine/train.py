"""The training loop: one loop for teachers, controls and distilled students.

It knows a student with its objective, who teaches it if anybody does, and a loader; nothing of
recipes. All chance in a step comes from (seed, step, rank), so a run that is cut anywhere and
started again ends with the same weights, bit for bit on the same CPU, threads and versions.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from videokd.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.loading import TrainLoader
from videokd.data.loading.clips import STUDENT
from videokd.distill.gather import gather_rows
from videokd.engine.interruption import Interrupted, stop_signal
from videokd.engine.learner import Learner, Peers
from videokd.engine.optim import (
    WeightAverage,
    create_optimizer,
    freeze_batch_norm,
    lr_at,
    set_lr,
)
from videokd.engine.settings import TrainConfig
from videokd.engine.teaching import Teaching
from videokd.engine.validation import Validation
from videokd.errors import UserError
from videokd.models.video_model import VideoModel
from videokd.tracking import Sink
from videokd.types import ClipBatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SEED_OF_STEPS = 1
"""Sets the steps' random numbers apart from those of other uses of the same seed."""


class Diverged(UserError):
    """The loss is no number any more; nothing of that step is kept."""


@dataclass
class TrainState:
    """What changes from step to step besides weights; all of it is in `last.pt`."""

    step: int = 0
    """Optimiser steps done."""
    best: dict[str, float] | None = None
    """Step of `best.pt` and the fields of its `Validation`."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Video id -> file and reason, of videos that did not decode and were left out."""
    seconds: float = 0.0
    """Time spent in training steps and validation, over all starts of the run."""


class _Part(NamedTuple):
    """A part of a step that goes through the networks at once, over all processes."""

    batch: ClipBatch
    """This process's clips of it."""
    share: float
    """What it weighs in the step's mean over clips; over all parts they sum to 1."""
    label_factor: torch.Tensor | None
    """The same among the clips with a label, over `share`: see `Objective.forward`."""


class Trainer:
    """One training run: `fit()` goes from where `last.pt` stands to the end."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        learner: Learner,
        peer: Learner | None = None,
        teaching: Teaching | None = None,
        loader: TrainLoader,
        config: TrainConfig,
        run_dir: Path,
        seed: int,
        identity: Mapping[str, Any],
        max_unreadable_pct: float,
        validate: Callable[[VideoModel], Validation] | None = None,
    ) -> None:
        """`identity` (recipe, classes, input) is written into every checkpoint.

        `loader` yields this process's whole share of each step's batch. With a `peer`, it and the
        learner teach each other; otherwise `teaching` is asked where a term needs a teacher.
        Without `validate` the last weights are the best.
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
        self.learner = learner
        self.teaching = teaching
        self.learners = {"student": learner} if peer is None else {"student": learner, "peer": peer}
        if config.freeze_batch_norm:
            self._freeze_batch_norms()
        self.optimizers = {
            name: create_optimizer(config.optim, one, head=one.student.classifier_parameters())
            for name, one in self.learners.items()
        }
        module = learner if peer is None else Peers(learner, peer)
        self._wrapped, *optimizers = fabric.setup(module, *self.optimizers.values())
        self._wrapped_optimizers = dict(zip(self.optimizers, optimizers, strict=True))
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
        for name, learner in self.learners.items():
            state = content if name == "student" else content[name]
            learner.student.load_state_dict(state["model"])
            learner.objective.load_state_dict(state["objective"])
            self.optimizers[name].load_state_dict(state["optimizer"])
        if self.teaching is not None:
            self.teaching.load_state_dict(content["teaching"])
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
            Diverged: a loss that is no number.
            UserError: too many unreadable videos.
        """
        if not self.total_steps:
            self._keep_first_weights(sinks)
            return self.state
        note = ""
        started = time.monotonic() - self.state.seconds
        self.loader.quarantine(self.state.unreadable)
        batches = self.loader.batches(self.state.step, self.total_steps)
        with stop_signal() as signalled:
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
            self._freeze_batch_norms()
        factor = lr_at(
            step,
            total_steps=self.total_steps,
            warmup_steps=round(config.optim.warmup_epochs * self.steps_per_epoch),
            final_fraction=config.optim.final_lr_fraction,
        )
        for optimizer in self.optimizers.values():
            set_lr(optimizer, config.optim.lr * factor)
        batch = batch.to(self.fabric.device, non_blocking=True)
        targets, has_label = mixed_targets(batch)
        batch = dataclasses.replace(batch, targets=targets, has_label=has_label)
        parts = self._parts(batch)
        sums: dict[str, torch.Tensor] = {}
        first = 0
        for position, (part, share, label_factor) in enumerate(parts):
            is_last = position == len(parts) - 1
            videos = range(first, first + part.num_videos)
            first = videos.stop
            with self.fabric.no_backward_sync(self._wrapped, enabled=not is_last):
                total, scalars = self._forward(batch, part, videos, step, label_factor)
                self.fabric.backward(total * share)
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0) + value * share
        for name in self.learners:
            norm = self._move(name, step)
            if norm is not None:
                sums["grad_norm" if name == "student" else f"{name}_grad_norm"] = norm
        if self.average is not None:
            self.average.update(self.learner.student, step)
        if self.teaching is not None:
            self.teaching.after_step(step)
        return sums

    def _move(self, name: str, step: int) -> torch.Tensor | None:
        """One network's step along its own gradients; their norm, where it is limited."""
        optimizer, norm = self._wrapped_optimizers[name], None
        self.learners[name].objective.drop_idle_gradients(step / self.total_steps)
        if self.config.clip_grad_norm is not None:
            norm = self.fabric.clip_gradients(
                self._wrapped,
                optimizer,
                max_norm=self.config.clip_grad_norm,
                error_if_nonfinite=False,  # `_read` says it in a line
            )
            assert norm is not None
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def _freeze_batch_norms(self) -> None:
        for learner in self.learners.values():
            freeze_batch_norm(learner.student)

    def _parts(self, batch: ClipBatch) -> list[_Part]:
        """The accumulated parts of a step.

        All processes run the same number of parts, none of them empty, or they would wait for each
        other: a batch that lost videos may have fewer than `accumulate`.
        """
        if self.config.accumulate == 1:
            return [_Part(batch, 1.0, None)]
        num_parts = min(self.config.accumulate, batch.num_videos)
        is_alone, device = self.fabric.world_size == 1, self.fabric.device
        if not is_alone:
            least = torch.tensor(num_parts, device=device)
            torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
            num_parts = int(least)
        parts = batch.split(num_parts)
        sizes = [part.num_videos for part in parts]
        num_labelled = torch.stack([part.has_label.sum() for part in parts])
        if not is_alone:
            counts = torch.stack([torch.tensor(sizes, device=device), num_labelled])
            torch.distributed.all_reduce(counts)
            sizes, num_labelled = counts[0].tolist(), counts[1]
        num_clips, all_labelled = sum(sizes), num_labelled.sum().clamp(min=1)
        return [
            # One division of whole numbers: exactly 1 where all clips have a label.
            _Part(part, size / num_clips, num_labelled[i] * num_clips / (all_labelled * size))
            for i, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]

    def _forward(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        videos: range,
        step: int,
        label_factor: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a part of the batch, `videos` of it; mixed clips may need the others."""
        progress = step / self.total_steps
        clips = augmented_clips(batch, STUDENT, videos=videos)
        teacher = None
        if self.teaching is not None and self.learner.objective.config.needs_teacher_at(progress):
            teacher = self.teaching.output(batch, part, videos=videos, step=step, clips=clips)
        # Draws stay here: Fabric would walk through them on every call.
        part = dataclasses.replace(part, draws=[])
        gather = gather_rows if self.fabric.world_size > 1 else None
        return self._wrapped(clips, part, teacher, progress, gather, label_factor)

    def _read(self, terms: Mapping[str, torch.Tensor], step: int) -> dict[str, float]:
        """Scalars of one step. This waits for the device, so it is done on log steps alone."""
        # A process knows its share of the batch; the mean over processes is the batch's.
        values = self.fabric.all_reduce(torch.stack(list(terms.values())), reduce_op="mean")
        scalars = dict(zip(terms, torch.as_tensor(values).tolist(), strict=True))
        if not all(map(math.isfinite, scalars.values())):
            detail = ", ".join(f"{name} {value:g}" for name, value in scalars.items())
            raise Diverged(
                f"the loss is no number at step {step} ({detail}); lower train.optim.lr or set "
                "train.clip_grad_norm"
            )
        group = self.optimizers["student"].param_groups[0]
        lr = group["lr"] / group["lr_factor"]
        weights = self.learner.objective.scheduled_weights_at(step / self.total_steps)
        curves = {f"weight_{name}": weight for name, weight in weights.items()}
        return {**scalars, **curves, "lr": lr, "epoch": step / self.steps_per_epoch}

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
                raise Diverged(
                    f"the validation loss is no number after step {self.state.step}; lower "
                    "train.optim.lr or set train.clip_grad_norm"
                )
            best = self.state.best
            if best is None or result.rank > (best[result.chosen_by], -best["cross_entropy"]):
                self.state.best = {"step": self.state.step, **dataclasses.asdict(result)}
                self._save_best()
        scalars = {f"val_{name}": value for name, value in dataclasses.asdict(result).items()}
        _log(sinks, max(0, self.state.step - 1), scalars)
        assert self.state.best is not None
        value, best_value = result.rank[0], self.state.best[result.chosen_by]
        return f"val {result.chosen_by_text} {value:.1f} %, best {best_value:.1f} %"

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
        """All that changes from step to step."""
        if self.fabric.is_global_zero:
            of_each = {name: self._state_of(name) for name in self.learners}
            content = {
                **self.identity,
                **of_each.pop("student"),
                **of_each,
                "average": self.average.state if self.average is not None else None,
                "teaching": self.teaching.state_dict() if self.teaching is not None else {},
                "state": dataclasses.asdict(self.state),
            }
            save_checkpoint(self.run_dir / LAST, content)

    def _state_of(self, name: str) -> dict[str, Any]:
        return {
            "model": self.learners[name].student.state_dict(),
            "objective": self.learners[name].objective.state_dict(),
            "optimizer": self.optimizers[name].state_dict(),
        }


def _step_seed(seed: int, step: int, rank: int) -> int:
    """What dropout and its like draw from, a function of the step: resuming needs no RNG state."""
    sequence = np.random.SeedSequence([seed, _SEED_OF_STEPS, step, rank])
    return int(sequence.generate_state(1, np.uint64)[0])


def _log(sinks: Sequence[Sink], step: int, scalars: Mapping[str, float]) -> None:
    for sink in sinks:
        sink.log(step, scalars)

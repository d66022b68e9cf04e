"""Losses that tell a clip's embedding from those of other videos: CRD. One value a clip, [N].

They compute in the dtype of their inputs: call them in float32 or better.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from videokd.distill.losses.base import Outputs, TermLoss
from videokd.distill.losses.directions import unit_vectors
from videokd.distill.projections import PooledProjection
from videokd.distill.terms.base import WeightedTerm
from videokd.distill.terms.relations import CRDTerm
from videokd.errors import ConfigError


class Scores(NamedTuple):
    """What a clip's embedding has to do with what the other network's memory holds."""

    positive: torch.Tensor
    """[N], cosine similarity with the same video, divided by the temperature."""
    negatives: torch.Tensor
    """[N, L], with the candidates."""
    is_negative: torch.Tensor
    """bool [N, L]: the candidates that count for a clip, K in each row."""


def log_normaliser(scores: Scores) -> torch.Tensor:
    """`log sum exp` of a clip's K + 1 scores, [N]."""
    negatives = scores.negatives.masked_fill(~scores.is_negative, -math.inf)
    return torch.logsumexp(torch.cat([scores.positive[:, None], negatives], dim=1), dim=1)


def contrast(
    scores: Scores, *, log_z: torch.Tensor | float, num_negatives: int, num_videos: int
) -> torch.Tensor:
    """`-log h(positive) - sum_k log(1 - h(negative_k))`, h = p / (p + K/n), p = exp(score) / Z.

    The noise-contrastive estimate of CRD (Tian et al., ICLR 2020) for one of the two networks. It
    is computed from logarithms, so no score is too large; the authors' code divides exponentials
    and adds 1e-7 to denominators, which are at least K/n.

    Paper and code differ in Z: the paper's h has none, which is `log_z` 0 here. The authors' code,
    and torchdistill's, takes n times the mean exponential over all K + 1 scores of the first batch,
    while the memories are still noise, and never changes it. The code is followed (`CRD`): the
    published temperature of 0.07, the weight and the numbers that later work compares with belong
    to it. With that Z, n cancels out: h is one half where exp(score) is K times that mean.

    Args:
        scores: of N clips.
        log_z: logarithm of Z, which makes p about a probability over the n videos.
        num_negatives: K.
        num_videos: n, from which negatives are drawn evenly.

    Returns:
        [N].
    """
    shift = log_z + math.log(num_negatives / num_videos)
    missed = F.softplus(shift - scores.positive)
    mistaken = F.softplus(scores.negatives - shift)
    return missed + mistaken.masked_fill(~scores.is_negative, 0).sum(dim=1)


class CRD(TermLoss[CRDTerm]):
    """Contrastive representation distillation (Tian et al., ICLR 2020) with a memory of videos.

    Each network's pooled features are embedded by a learned linear map and normalised. A clip's
    student embedding is told from those of K other videos in the teacher's memory, its teacher
    embedding from those in the student's; the loss is the sum of both. Then the memory of the
    batch's videos moves towards their new embeddings and is normalised again.

    As in the authors' code: memories begin as uniform noise; Z, one a network, is `n` times the
    mean exponential over the first batch (of all processes) and stays. Otherwise:

    - Negatives are drawn evenly from the **other training videos of any class**, as the paper's
      product of marginals says and its memory draws by itself. The authors' CIFAR-100 runs leave
      out the clip's class; that needs a label of every video, and here some have none or several.
    - One set of candidates is drawn for all clips of a step; a clip leaves out its own video. For
      each clip this is an even draw without repetition, as in the authors' code; and it does not
      depend on the batch around it, nor on the number of processes. Scores take K rows of memory
      then, where a set for each clip takes K * N.
    - Clips of one video in a batch count as one when it is remembered, by the mean of their
      embeddings.

    Memories, Z and the number of draws are buffers: a resumed run goes on with the same draws.
    """

    candidates_seed: int
    position: torch.Tensor
    """int64 [rows of the index]: a training video's row of memory; out of range for others."""
    student_memory: torch.Tensor
    teacher_memory: torch.Tensor
    """[n, embedding_dim]."""
    log_z: torch.Tensor
    """[2], student's and teacher's."""
    num_draws: torch.Tensor
    """int64: calls in training so far."""

    def build(self, generator: torch.Generator) -> None:
        """Embeddings and memories.

        Raises:
            ConfigError: fewer videos than negatives.
        """
        networks, dim = self.networks, self.term.embedding_dim
        assert networks.teacher_pooled_dim is not None, "checked with the taps"
        ids = networks.train_video_ids
        rows = torch.arange(networks.num_videos) if ids is None else torch.tensor(sorted(set(ids)))
        self.num_remembered = len(rows)
        if self.term.num_negatives >= self.num_remembered:
            raise ConfigError(
                f"{self.where}.num_negatives: {self.term.num_negatives} negatives are not to be "
                f"had from {self.num_remembered} training videos; set it to "
                f"{self.num_remembered - 1} or less"
            )
        position = torch.full((networks.num_videos,), networks.num_videos)
        position[rows] = torch.arange(self.num_remembered)
        self.register_buffer("position", position, persistent=False)
        self.student_embedding = PooledProjection(
            networks.student_pooled_dim, dim, generator=generator
        )
        self.teacher_embedding = PooledProjection(
            networks.teacher_pooled_dim, dim, generator=generator
        )
        for name in ("student_memory", "teacher_memory"):
            noise = torch.rand(self.num_remembered, dim, generator=generator)
            self.register_buffer(name, (2 * noise - 1) * math.sqrt(3 / dim))
        self.register_buffer("log_z", torch.zeros(2))
        self.register_buffer("num_draws", torch.zeros((), dtype=torch.int64))
        self.candidates_seed = int(torch.randint(2**62, (), generator=generator))

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """[N]. In training, what was seen is remembered."""
        student = unit_vectors(self.student_embedding(outputs.student.pooled))
        teacher = unit_vectors(self.teacher_embedding(outputs.wanted.pooled))
        positions = self.position[outputs.video_ids]
        num_draws = int(self.num_draws)  # waits for the device
        candidates = self._candidates(num_draws).to(positions.device)
        is_negative = _is_negative(candidates, positions)
        sides = [
            self._scores(embedding, memory, positions, candidates, is_negative)
            for embedding, memory in (
                (student, self.teacher_memory),
                (teacher, self.student_memory),
            )
        ]
        # A copy: the buffer may be written before the gradient is computed.
        log_z = self.log_z.clone() if num_draws else self._first_log_z(sides, outputs)
        of_student, of_teacher = (
            contrast(
                scores,
                log_z=z,
                num_negatives=self.term.num_negatives,
                num_videos=self.num_remembered,
            )
            for scores, z in zip(sides, log_z, strict=True)
        )
        if self.training:
            self._remember(outputs, positions, student, teacher, log_z)
        return of_student + of_teacher

    def _candidates(self, num_draws: int) -> torch.Tensor:
        """int64 [K + 1], different rows of memory in an even order."""
        generator = np.random.default_rng([self.candidates_seed, num_draws])
        return torch.from_numpy(
            generator.choice(self.num_remembered, self.term.num_negatives + 1, replace=False)
        )

    def _scores(
        self,
        embeddings: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        candidates: torch.Tensor,
        is_negative: torch.Tensor,
    ) -> Scores:
        # Indexing copies rows: remembering new ones does not disturb the backward pass.
        embeddings = embeddings / self.term.temperature
        return Scores(
            positive=(embeddings * memory[positions]).sum(dim=1),
            negatives=embeddings @ memory[candidates].T,
            is_negative=is_negative,
        )

    def _first_log_z(self, sides: list[Scores], outputs: Outputs) -> torch.Tensor:
        """[2]: the logarithm of n times the mean exponential over the clips of all processes."""
        local = torch.stack([log_normaliser(scores).detach() for scores in sides], dim=1)
        everyone = outputs.of_all_processes(local)
        num_scores = max(1, len(everyone)) * (self.term.num_negatives + 1)
        return torch.logsumexp(everyone, dim=0) + math.log(self.num_remembered / num_scores)

    @torch.no_grad()
    def _remember(
        self,
        outputs: Outputs,
        positions: torch.Tensor,
        student: torch.Tensor,
        teacher: torch.Tensor,
        log_z: torch.Tensor,
    ) -> None:
        """Move the memory of the videos of all processes; the same on each."""
        rows = outputs.of_all_processes(positions)
        embeddings = outputs.of_all_processes(torch.cat([student, teacher], dim=1).detach())
        if not len(rows):
            return
        same_video = rows[:, None] == rows
        mean = same_video.to(embeddings.dtype) @ embeddings / same_video.sum(dim=1, keepdim=True)
        # One and the same row for all clips of a video: it does not matter which is written last.
        mean = mean[same_video.to(torch.int8).argmax(dim=1)]
        new = mean.split(self.term.embedding_dim, dim=1)
        for memory, seen in zip((self.student_memory, self.teacher_memory), new, strict=True):
            moved = self.term.momentum * memory[rows] + (1 - self.term.momentum) * seen
            memory[rows] = unit_vectors(moved)
        self.log_z.copy_(log_z)
        self.num_draws += 1


def _is_negative(candidates: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """bool [N, K + 1], K in each row: all but the clip's own video, or else all but the last."""
    is_own = candidates == positions[:, None]
    is_left_out = is_own.clone()
    is_left_out[:, -1] |= ~is_own.any(dim=1)
    return ~is_left_out


LOSSES: dict[type[WeightedTerm], type[TermLoss[Any]]] = {CRDTerm: CRD}

from __future__ import annotations

import copy
import io
import math

import distill_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from videokd.distill.losses.base import Networks, Outputs
from videokd.distill.losses.contrast import CRD, Scores, contrast, log_normaliser
from videokd.distill.projections import term_generator
from videokd.distill.terms import CRDTerm
from videokd.errors import ConfigError
from videokd.types import ModelOutput

NUM_VIDEOS = 9
STUDENT_DIM, TEACHER_DIM = 5, 6


def make_loss(*, num_negatives: int = 4, train_video_ids=None, seed: int = 0, **settings) -> CRD:
    term = CRDTerm(num_negatives=num_negatives, embedding_dim=3, **settings)
    networks = Networks(
        student_taps={},
        teacher_taps={},
        student_pooled_dim=STUDENT_DIM,
        teacher_pooled_dim=TEACHER_DIM,
        num_classes=2,
        num_videos=NUM_VIDEOS,
        train_video_ids=train_video_ids,
    )
    return CRD("far", term, networks, generator=term_generator(seed, "far"))


def make_outputs(video_ids: list[int], *, seed: int, size: float = 1.0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    num_clips = len(video_ids)

    def side(dim: int) -> ModelOutput:
        pooled = torch.randn(num_clips, dim, generator=generator) * size
        return ModelOutput(logits=torch.zeros(num_clips, 2), pooled=pooled)

    return Outputs(
        student=side(STUDENT_DIM),
        teacher=side(TEACHER_DIM),
        targets=torch.zeros(num_clips, 2),
        has_label=torch.zeros(num_clips, dtype=torch.bool),
        video_ids=torch.tensor(video_ids, dtype=torch.int64),
        progress=0.0,
    )


def rows(outputs: Outputs, part: slice, gather=None) -> Outputs:
    def side(output: ModelOutput) -> ModelOutput:
        return ModelOutput(logits=output.logits[part], pooled=output.pooled[part])

    return Outputs(
        student=side(outputs.student),
        teacher=side(outputs.teacher),
        targets=outputs.targets[part],
        has_label=outputs.has_label[part],
        video_ids=outputs.video_ids[part],
        progress=0.0,
        gather=gather,
    )


BATCHES = [[1, 4, 8, 0], [4, 2, 7, 3], [0, 1, 5, 6]]


def negatives_of(loss: CRD, video_ids: list[int]) -> list[list[int]]:
    """The rows of memory that each clip is told from in the next step."""
    candidates = loss._candidates(int(loss.num_draws)).tolist()
    chosen = []
    for position in loss.position[torch.tensor(video_ids)].tolist():
        others = [row for row in candidates if row != position]
        chosen.append(others[: loss.term.num_negatives])
    return chosen


def embed(projection: nn.Module, pooled: torch.Tensor) -> np.ndarray:
    linear = projection.linear
    weight, bias = (p.detach().double().numpy() for p in (linear.weight, linear.bias))
    raw = pooled.detach().double().numpy() @ weight.T + bias
    return raw / np.sqrt((raw**2).sum(axis=1, keepdims=True))


def by_hand(
    anchors: np.ndarray, memory: np.ndarray, ids: list[int], negatives: list[list[int]], z: float
) -> list[float]:
    """The formula of `contrast`, a clip at a time; p is exp(similarity / T) / Z."""
    losses = []
    for anchor, video_id, others in zip(anchors, ids, negatives, strict=True):
        noise = len(others) / NUM_VIDEOS

        def h(row: int, anchor=anchor, noise=noise) -> float:
            p = math.exp(anchor @ memory[row] / 0.07) / z
            return p / (p + noise)

        losses.append(-math.log(h(video_id)) - sum(math.log(1 - h(row)) for row in others))
    return losses


def first_z(anchors: np.ndarray, memory: np.ndarray, ids: list[int], negatives) -> float:
    powers = [
        math.exp(anchor @ memory[row] / 0.07)
        for anchor, video_id, others in zip(anchors, ids, negatives, strict=True)
        for row in [video_id, *others]
    ]
    return NUM_VIDEOS * sum(powers) / len(powers)


def moved(memory: np.ndarray, seen: np.ndarray, ids: list[int]) -> np.ndarray:
    memory = memory.copy()
    for video_id, embedding in zip(ids, seen, strict=True):
        mixed = 0.5 * memory[video_id] + 0.5 * embedding
        memory[video_id] = mixed / np.sqrt(mixed @ mixed)
    return memory


def test_steps_are_the_formula_and_the_memory_moves():
    loss = make_loss()
    memories = [
        memory.double().numpy().copy() for memory in (loss.student_memory, loss.teacher_memory)
    ]
    zs = None
    for step, ids in enumerate(BATCHES):
        outputs = make_outputs(ids, seed=step)
        negatives = negatives_of(loss, ids)
        student = embed(loss.student_embedding, outputs.student.pooled)
        teacher = embed(loss.teacher_embedding, outputs.teacher.pooled)
        if zs is None:  # of the first batch, and kept
            zs = [
                first_z(anchors, memory, ids, negatives)
                for anchors, memory in ((student, memories[1]), (teacher, memories[0]))
            ]

        values = loss(outputs)

        wanted = np.add(
            by_hand(student, memories[1], ids, negatives, zs[0]),
            by_hand(teacher, memories[0], ids, negatives, zs[1]),
        )
        assert reference.relative_error(values, wanted) < 1e-5
        memories = [moved(memories[0], student, ids), moved(memories[1], teacher, ids)]
        np.testing.assert_allclose(loss.student_memory, memories[0], atol=1e-6)
        np.testing.assert_allclose(loss.teacher_memory, memories[1], atol=1e-6)
        np.testing.assert_allclose(loss.log_z.exp(), zs, rtol=1e-5)
    assert int(loss.num_draws) == 3


def test_the_gradient_is_that_of_the_formula():
    loss = make_loss()
    loss(make_outputs(BATCHES[0], seed=0))
    memory = loss.teacher_memory.double().numpy().copy()
    student_memory = loss.student_memory.double().numpy().copy()
    zs = loss.log_z.double().exp().tolist()
    ids = BATCHES[1]
    negatives = negatives_of(loss, ids)
    outputs = make_outputs(ids, seed=1)
    pooled = [side.pooled.requires_grad_() for side in (outputs.student, outputs.teacher)]

    gradients = reference.gradients(loss(outputs).sum(), *pooled)

    # No network behind: both sides' embeddings are trained, each against the other's memory.
    for gradient, at, projection, bank, z in (
        (gradients[0], pooled[0], loss.student_embedding, memory, zs[0]),
        (gradients[1], pooled[1], loss.teacher_embedding, student_memory, zs[1]),
    ):
        numeric = reference.numeric_gradient(
            lambda rows, projection=projection, bank=bank, z=z: sum(
                by_hand(embed(projection, torch.tensor(rows)), bank, ids, negatives, z)
            ),
            at.detach().double().numpy(),
        )
        assert reference.relative_error(gradient, numeric) < 1e-5


def test_torchdistill_agrees_in_value_gradient_and_memory():
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    loss = make_loss()
    theirs = mid_level.CRDLoss("s", "e", "t", 3, NUM_VIDEOS, 4, NUM_VIDEOS)
    theirs.memory_v1.copy_(loss.student_memory)
    theirs.memory_v2.copy_(loss.teacher_memory)
    for step, ids in enumerate(BATCHES):
        outputs = make_outputs(ids, seed=step)
        pooled = outputs.student.pooled.requires_grad_()
        student = nn.functional.normalize(loss.student_embedding(pooled), dim=1)
        teacher = nn.functional.normalize(loss.teacher_embedding(outputs.teacher.pooled), dim=1)
        index = [[i, *others] for i, others in zip(ids, negatives_of(loss, ids), strict=True)]
        given = {"pos_idx": torch.tensor(ids), "contrast_idx": torch.tensor(index)}
        wanted = theirs(
            {"s": {"output": student}, "e": {"input": given}}, {"t": {"output": teacher}}
        )

        value = loss(outputs).mean()

        assert reference.relative_error(value, wanted.squeeze()) < 1e-5
        for ours, other in zip(
            reference.gradients(value, pooled, *loss.parameters()),
            reference.gradients(wanted, pooled, *loss.parameters()),
            strict=True,
        ):
            assert reference.relative_error(ours, other) < 1e-5
        torch.testing.assert_close(loss.student_memory, theirs.memory_v1)
        torch.testing.assert_close(loss.teacher_memory, theirs.memory_v2)


def test_negatives_are_other_videos_each_once_and_all_alike():
    loss = make_loss()
    video = 4
    counts = np.zeros(NUM_VIDEOS)
    for draw in range(2000):
        loss.num_draws.fill_(draw)
        (others,) = negatives_of(loss, [video])
        assert len(set(others)) == 4
        counts[others] += 1

    assert counts[video] == 0
    # Each of the 8 others is one of 4: 1000 times of 2000, with a standard deviation of 22.
    others = np.delete(counts, video)
    assert (np.abs(others - 1000) < 110).all()
    assert others.sum() == 8000


def test_the_mask_keeps_as_many_negatives_for_all():
    loss = make_loss(num_negatives=8)
    outputs = make_outputs([2, 5], seed=0)

    # With all videos as candidates each clip leaves out its own: K is at most n - 1.
    assert sorted(negatives_of(loss, [2])[0]) == [0, 1, 3, 4, 5, 6, 7, 8]
    assert loss(outputs).isfinite().all()


def test_scores_of_a_cold_temperature_stay_finite():
    loss = make_loss(temperature=1e-3)  # exp(1000) is no float32
    outputs = make_outputs(BATCHES[0], seed=0)
    pooled = outputs.student.pooled.requires_grad_()

    values = loss(outputs)
    (gradient,) = reference.gradients(values.sum(), pooled)

    assert values.isfinite().all()
    assert gradient.isfinite().all()
    assert loss.log_z.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_silent_and_extreme_features_have_finite_gradients(size):
    loss = make_loss()
    with torch.no_grad():
        for projection in (loss.student_embedding, loss.teacher_embedding):
            projection.linear.bias.zero_()
    outputs = make_outputs(BATCHES[0], seed=0, size=size)
    pooled = outputs.student.pooled.requires_grad_()

    values = loss(outputs)
    gradients = reference.gradients(values.sum(), pooled, *loss.parameters())

    assert values.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_clips_of_one_video_are_remembered_as_one():
    loss, once = make_loss(), make_loss()
    outputs = make_outputs([4, 1, 4], seed=0)
    before = loss.student_memory[4].double().numpy().copy()

    loss(outputs)
    once(make_outputs([1], seed=9))

    seen = embed(loss.student_embedding, outputs.student.pooled)
    mixed = 0.5 * before + 0.5 * (seen[0] + seen[2]) / 2
    np.testing.assert_allclose(loss.student_memory[4], mixed / np.linalg.norm(mixed), atol=1e-6)
    untouched = [0, 2, 3, 5, 6, 7, 8]
    assert torch.equal(loss.teacher_memory[untouched], once.teacher_memory[untouched])


@pytest.mark.parametrize("split", [0, 1, 3])
def test_ranks_of_any_share_are_one_process(split):
    alone = make_loss()
    ranks = [copy.deepcopy(alone) for _ in range(2)]
    parts = [slice(0, split), slice(split, 4)]
    for step, ids in enumerate([*BATCHES, [3, 3, 5, 3]]):
        outputs = make_outputs(ids, seed=step)
        pooled = outputs.student.pooled.requires_grad_()
        wanted = alone(outputs)
        wanted_gradients = reference.gradients(wanted.mean(), pooled, *alone.parameters())

        values = torch.cat(
            reference.on_ranks(
                2,
                lambda rank, gather, outputs=outputs: ranks[rank](
                    rows(outputs, parts[rank], gather)
                ),
            )
        )

        torch.testing.assert_close(values, wanted)
        both = [pooled, *ranks[0].parameters(), *ranks[1].parameters()]
        by_pooled, *others = torch.autograd.grad(values.mean(), both, materialize_grads=True)
        half = len(others) // 2
        summed = [a + b for a, b in zip(others[:half], others[half:], strict=True)]
        for ours, truth in zip([by_pooled, *summed], wanted_gradients, strict=True):
            torch.testing.assert_close(ours, truth)
        for name, buffer in ranks[0].state_dict().items():
            assert torch.equal(buffer, ranks[1].state_dict()[name]), name
            torch.testing.assert_close(buffer, alone.state_dict()[name])


def test_a_resumed_run_is_the_same_to_the_last_bit():
    def train(loss: CRD, steps: range) -> list[torch.Tensor]:
        optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
        values = []
        for step in steps:
            value = loss(make_outputs(BATCHES[step % 3], seed=step))
            optimiser.zero_grad()
            value.mean().backward()
            optimiser.step()
            values.append(value.detach())
        return values

    through = make_loss()
    wanted = train(through, range(6))
    first = make_loss()
    train(first, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = make_loss()
    again.load_state_dict(torch.load(file, weights_only=True))

    values = train(again, range(3, 6))

    assert all(map(torch.equal, values, wanted[3:]))
    assert set(again.state_dict()) >= {"student_memory", "teacher_memory", "log_z", "num_draws"}
    for name, tensor in through.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_each_step_has_its_own_candidates_and_each_term_its_own_seed():
    loss, other = make_loss(), make_loss(seed=1)

    draws = [loss._candidates(step).tolist() for step in range(5)]

    assert len(set(map(tuple, draws))) == 5
    assert [make_loss()._candidates(step).tolist() for step in range(5)] == draws
    assert other._candidates(0).tolist() != draws[0]
    assert not torch.equal(other.student_memory, loss.student_memory)


def test_only_training_remembers():
    loss = make_loss()
    loss(make_outputs(BATCHES[0], seed=0))
    before = copy.deepcopy(loss.state_dict())

    loss.eval()(make_outputs(BATCHES[1], seed=1))

    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_first_memories_are_noise_of_unit_length_and_leave_the_global_state():
    before = torch.get_rng_state()
    loss = make_loss()

    # Uniform on [-sqrt(3 / d), sqrt(3 / d)], whose square has mean 1 / d.
    assert torch.equal(torch.get_rng_state(), before)
    assert loss.student_memory.abs().max() <= 1
    assert loss.student_memory.square().sum(dim=1).mean().item() == pytest.approx(1, abs=0.4)
    assert not torch.equal(loss.student_memory, loss.teacher_memory)


def test_videos_that_are_not_trained_on_are_no_negatives():
    loss = make_loss(train_video_ids=[7, 0, 4, 2, 5])

    assert loss.student_memory.shape == (5, 3)
    loss(make_outputs([4, 7], seed=0))
    fresh = make_loss(train_video_ids=[7, 0, 4, 2, 5])
    changed = (loss.student_memory != fresh.student_memory).any(dim=1)
    assert changed.tolist() == [False, False, True, False, True]  # of videos 0, 2, 4, 5, 7


@pytest.mark.parametrize(
    ("num_negatives", "train_video_ids", "most"), [(9, None, 8), (16384, None, 8), (3, [1, 5], 1)]
)
def test_more_negatives_than_other_videos_are_refused(num_negatives, train_video_ids, most):
    with pytest.raises(
        ConfigError,
        match=rf"objective\.terms\.far\.num_negatives: {num_negatives} .*set it to {most} or less",
    ):
        make_loss(num_negatives=num_negatives, train_video_ids=train_video_ids)


def test_contrast_is_binary_cross_entropy_of_h():
    scores = Scores(
        positive=torch.tensor([2.0]),
        negatives=torch.tensor([[0.5, -1.0, 3.0]]),
        is_negative=torch.tensor([[True, True, False]]),
    )

    value = contrast(scores, log_z=0.3, num_negatives=2, num_videos=10)

    def h(score: float) -> float:
        p = math.exp(score - 0.3)
        return p / (p + 2 / 10)

    wanted = -math.log(h(2.0)) - math.log(1 - h(0.5)) - math.log(1 - h(-1.0))
    assert value.item() == pytest.approx(wanted, rel=1e-6)
    three = math.exp(2.0) + math.exp(0.5) + math.exp(-1.0)
    assert log_normaliser(scores).item() == pytest.approx(math.log(three), rel=1e-6)

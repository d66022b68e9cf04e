"""Two real processes: what is gathered, and that a batch on both is one process's whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from every_kind import EVERY_KIND, term_of
from test_distill_every_kind import differentiable, make_objective, objective_of, outputs
from test_distill_objective import make_batch, make_part, rows
from torch import nn

from videokd.distill.gather import gather_rows
from videokd.types import ClipBatch, ModelOutput, TapOutput

PARTS = (slice(0, 1), slice(1, 6))
"""The clips of each process: uneven, and of one clip in the first."""
LABELLED = [False, True, True, False, True, True]
"""None in the first process."""
OF_THE_BATCH = sorted(set(EVERY_KIND) - {"review"})
"""Review has batch norm, whose statistics are each process's own, as its docstring says."""
NUM_STEPS = 8


class Student(nn.Module):
    """Something to learn before each of a tiny network's outputs."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.body = nn.Conv3d(2, 2, 1)
            self.deep = nn.Conv3d(3, 3, 1)
            self.head = nn.Linear(5, 5)

    def forward(self, given: ModelOutput) -> ModelOutput:
        features, seconds = given.taps["s1"]
        seen = self.body(features)
        deep, deep_seconds = given.taps["s2"]
        deep = self.deep(deep)
        level = (seen.mean(dim=(1, 2, 3, 4)) + deep.mean(dim=(1, 2, 3, 4)))[:, None]
        return ModelOutput(
            logits=self.head(given.logits) + level,
            pooled=given.pooled + level,
            taps={"s1": TapOutput(seen, seconds), "s2": TapOutput(deep, deep_seconds)},
        )


class Learner(nn.Module):
    """As the engine has it: a student and an objective in one module."""

    def __init__(self, terms: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.student = Student()
        self.objective = make_objective(terms)

    def forward(
        self,
        given: ModelOutput,
        teacher: ModelOutput,
        batch: ClipBatch,
        progress: float,
        is_alone: bool,
    ) -> torch.Tensor:
        gather = None if is_alone else gather_rows
        output = self.student(given)
        return self.objective(output, teacher, batch, progress=progress, gather=gather).total


TERMS = {
    "labels": {"kind": "cross_entropy", "schedule": {"stop": 0.5}},
    "dist": term_of("dist", schedule={"start": 0.25, "stop": 0.75}),
    "similar": term_of("similarity_preserving", weight=10),
    "middle": term_of("hint", schedule={"start": 0.25, "stop": 0.75}),
    "pooled": term_of("crd", schedule={"start": 0.5, "warmup": 0.25}),
}


def train(learner: Learner, parts: slice, *, wrapped: nn.Module | None = None) -> None:
    """Some steps as the engine does them; SGD, which does not blow rounding up to a whole step."""
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    student, teacher = outputs()
    batch = make_batch(LABELLED)
    for step in range(NUM_STEPS):
        progress = step / NUM_STEPS
        total = (wrapped or learner)(
            rows(student, parts),
            rows(teacher, parts),
            make_part(batch, parts),
            progress,
            wrapped is None,
        )
        total.backward()
        learner.objective.drop_idle_gradients(progress)
        optimiser.step()
        optimiser.zero_grad()


def losses_and_gradients(kind: str, part: slice, gather: Any) -> dict[str, torch.Tensor]:
    """Of one kind on some of the clips."""
    student, teacher = outputs()
    student = rows(student, part)
    inputs = differentiable(student)
    objective = objective_of(kind)
    batch = make_part(make_batch(LABELLED), part)
    total = objective(student, rows(teacher, part), batch, progress=0.5, gather=gather).total
    total.backward()
    found = {f"input.{name}": tensor.grad for name, tensor in inputs.items()}
    found |= {f"weight.{name}": p.grad for name, p in objective.named_parameters()}
    return {"total": total.detach(), **{n: g for n, g in found.items() if g is not None}}


def gathered_rows(rank: int) -> dict[str, torch.Tensor]:
    """Values and a gradient: process r has r + 1 rows, and a loss that is its own."""
    mine = torch.arange(3.0 * (rank + 1)).reshape(-1, 3) + 100 * rank
    inputs = mine.clone().requires_grad_()
    everyone = gather_rows(inputs)
    weight = torch.arange(9.0).reshape(3, 3)
    loss = (everyone.square() * (weight if rank else 7)).sum()
    loss.backward()
    nothing_of_one = mine[: 0 if rank else 1]
    return {
        "rows": everyone.detach(),
        "gradient": inputs.grad,
        "int64": gather_rows(torch.arange(rank + 1)),
        "bool": gather_rows(torch.tensor([True, False])[rank:]),
        "none_of_one": gather_rows(nothing_of_one),
        "none_at_all": gather_rows(mine[:0]),
    }


def run_process(rank: int, folder: str) -> None:
    """What one of the two does; the tests read what it leaves."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {"rows": gathered_rows(rank)}
    for kind in OF_THE_BATCH:
        found[kind] = losses_and_gradients(kind, PARTS[rank], gather_rows)
    learner = Learner(TERMS)
    wrapped = nn.parallel.DistributedDataParallel(learner)
    train(learner, PARTS[rank], wrapped=wrapped)
    found["trained"] = learner.state_dict()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(run_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_rows_of_all_processes_lie_side_by_side(both):
    wanted = torch.tensor([[0.0, 1, 2], [100, 101, 102], [103, 104, 105]])
    for each in both:
        assert torch.equal(each["rows"]["rows"], wanted)
        assert each["rows"]["int64"].tolist() == [0, 0, 1]
        assert each["rows"]["bool"].tolist() == [True, False, False]
        assert torch.equal(each["rows"]["none_of_one"], wanted[:1])
        assert each["rows"]["none_at_all"].shape == (0, 3)


def test_rows_get_the_gradient_of_the_sum_of_all_losses(both):
    everyone = both[0]["rows"]["rows"].clone().requires_grad_()
    (everyone.square() * (7 + torch.arange(9.0).reshape(3, 3))).sum().backward()

    gradients = torch.cat([each["rows"]["gradient"] for each in both])

    assert torch.equal(gradients, everyone.grad)


@pytest.mark.parametrize("kind", OF_THE_BATCH)
def test_two_processes_are_one_with_the_whole_batch(both, kind):
    """In value and in the gradients of inputs and of what is learned, under DDP's mean."""
    wanted = losses_and_gradients(kind, slice(0, 6), None)
    found = [each[kind] for each in both]

    assert found[0].keys() == wanted.keys()
    for name, value in wanted.items():
        sides = [each[name] for each in found]
        joined = torch.cat(sides) / 2 if name.startswith("input.") else sum(sides) / 2
        torch.testing.assert_close(joined, value, rtol=1e-5, atol=1e-6, msg=name)
    assert any(value.any() for name, value in wanted.items() if name != "total")


def test_terms_come_and_go_under_ddp(both):
    """DDP waits for every parameter's gradient, of terms that are off too; nothing hangs, and the
    weights are those of one process."""
    alone = Learner(TERMS)
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    train(alone, slice(0, 6))

    wanted = alone.state_dict()
    for each in both:
        for name, value in each["trained"].items():
            torch.testing.assert_close(
                value, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    learned = [n for n, v in before.items() if v.is_floating_point() and "log_z" not in n]
    assert all(not torch.equal(before[name], wanted[name]) for name in learned)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rows_are_gathered_on_a_gpu(tmp_path):
    """One process of NCCL: the same calls, on the device."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mine = torch.arange(6.0, device="cuda").reshape(2, 3).requires_grad_()
        everyone = gather_rows(mine)
        everyone.square().sum().backward()
    finally:
        dist.destroy_process_group()

    assert torch.equal(everyone, mine)
    assert torch.equal(mine.grad, 2 * mine)

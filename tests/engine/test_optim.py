"""Schedule, groups, averaging and frozen batch norm against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from videokd.engine.optim import (
    OptimConfig,
    WeightAverage,
    create_optimizer,
    freeze_batch_norm,
    lr_at,
    set_lr,
)


def test_warm_up_then_cosine() -> None:
    factors = [
        lr_at(step, total_steps=12, warmup_steps=4, final_fraction=0.1) for step in range(12)
    ]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[8] == pytest.approx(0.1 + 0.9 * 0.5)
    last = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 7 / 8))
    assert factors[11] == pytest.approx(last)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert lr_at(0, total_steps=5, warmup_steps=0, final_fraction=0) == 1.0


def test_groups_spare_norms_and_biases_from_decay_and_know_the_head() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4))
    config = OptimConfig(lr=0.1, weight_decay=0.3, head_lr_factor=10)
    optimizer = create_optimizer(config, net, head=net[2].parameters())
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[id(parameter)] = (group["weight_decay"], group["lr_factor"])
    assert seen[id(net[0].weight)] == (0.3, 1.0)
    assert seen[id(net[0].bias)] == (0.0, 1.0)
    assert seen[id(net[1].weight)] == (0.0, 1.0)
    assert seen[id(net[2].weight)] == (0.3, 10)
    assert seen[id(net[2].bias)] == (0.0, 10)
    assert len(seen) == len(list(net.parameters()))
    set_lr(optimizer, 0.05)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.5}


def test_frozen_parameters_are_left_out() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    freeze_batch_norm(net)
    optimizer = create_optimizer(OptimConfig(kind="sgd", lr=1), net)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == 2


def test_frozen_batch_norm_is_a_fixed_map() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net.train()
    freeze_batch_norm(net)
    before = net[1].running_mean.clone()
    x = torch.randn(5, 2)
    together = net(x)
    alone = torch.cat([net(row[None]) for row in x])
    assert torch.equal(net[1].running_mean, before)
    torch.testing.assert_close(together, alone)


def test_average_follows_the_formula_and_swaps_in_and_out() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    average = WeightAverage(net, decay=0.5)
    expected = 2.0
    for step, value in enumerate([4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0]):
        nn.init.constant_(net.weight, value)
        average.update(net, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.state["weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.applied_to(net):
        assert net.weight.item() == pytest.approx(expected, rel=1e-6)
    assert net.weight.item() == 22.0

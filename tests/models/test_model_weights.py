import copy

import pytest
import torch

from videokd.errors import UserError
from videokd.models.weights import LoadReport, load_weights

ARGS = {"replace_head": False, "classifier": "head", "source": "old.pt"}


@pytest.fixture
def checkpoint(tiny_net):
    """Weights of the same network, all different."""
    other = copy.deepcopy(tiny_net)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1)
    return dict(other.state_dict())


def equal(network, state):
    return all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "module.network.", "model.network."])
def test_all_of_it_whatever_wrapped_it(tiny_net, checkpoint, prefix):
    given = {f"{prefix}{key}": value for key, value in checkpoint.items()}
    report = load_weights(tiny_net, given, **ARGS)
    assert equal(tiny_net, checkpoint)
    assert report == LoadReport("old.pt", matched=tuple(checkpoint))
    assert report.summary() == "old.pt: 9 tensors loaded"


def test_a_new_head_keeps_its_initial_values(tiny_net, checkpoint):
    checkpoint["head.weight"] = torch.zeros(9, 4)
    checkpoint["head.bias"] = torch.zeros(9)
    head = tiny_net.head.weight.clone()
    report = load_weights(tiny_net, checkpoint, **(ARGS | {"replace_head": True}))
    assert torch.equal(tiny_net.head.weight, head)
    assert torch.equal(tiny_net.stem.weight, checkpoint["stem.weight"])
    assert report.head == ("head.weight", "head.bias")
    assert "head.weight" not in report.matched
    assert report.summary().splitlines() == [
        "old.pt: 7 tensors loaded",
        "  new head, as initialised: 2 (head.weight, head.bias)",
    ]


def test_a_new_head_needs_none_in_the_checkpoint(tiny_net, checkpoint):
    del checkpoint["head.weight"], checkpoint["head.bias"]
    report = load_weights(tiny_net, checkpoint, **(ARGS | {"replace_head": True}))
    assert (report.missing, report.unexpected) == ((), ())
    assert equal(tiny_net, checkpoint)


def test_a_partial_load_is_reported(tiny_net, checkpoint):
    del checkpoint["bn.bias"]
    checkpoint |= {f"extra.{n}": torch.zeros(1) for n in range(4)}
    report = load_weights(tiny_net, checkpoint, **ARGS, allow_partial=True)
    assert report.missing == ("bn.bias",)
    assert report.unexpected == ("extra.0", "extra.1", "extra.2", "extra.3")
    assert report.summary().splitlines() == [
        "old.pt: 8 tensors loaded",
        "  missing, as initialised: 1 (bn.bias)",
        "  unexpected, left out: 4 (extra.0, extra.1, extra.2, ...)",
    ]
    assert torch.equal(tiny_net.stem.weight, checkpoint["stem.weight"])


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {"head.weight": torch.zeros(9, 4), "head.bias": torch.zeros(9)},
            {},
            r"^old\.pt: 'head\.weight' is \[9, 4\] in the checkpoint and \[5, 4\] in the network "
            r"\(and 1 more\); the classes are others: set replace_head: true",
        ),
        (
            {"bn.weight": torch.zeros(6), "head.weight": torch.zeros(9, 4)},
            {"replace_head": True, "allow_partial": True},
            r"^old\.pt: 'bn\.weight' is \[6\] in the checkpoint and \[4\] in the network; give",
        ),
        (
            {"bn.bias": None, "more": torch.zeros(1)},
            {},
            r"^old\.pt: does not fit: 1 missing, first 'bn\.bias'; 1 unexpected, first 'more';",
        ),
        ({"more": torch.zeros(1)}, {}, r"does not fit: 1 unexpected, first 'more'"),
        (
            {"epoch": 3},
            {},
            r"^old\.pt: 'epoch' is a int, not a tensor; give the state dict itself",
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(tiny_net, checkpoint, change, settings, message):
    before = copy.deepcopy(tiny_net.state_dict())
    given = {k: v for k, v in (checkpoint | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        load_weights(tiny_net, given, **(ARGS | settings))
    assert equal(tiny_net, before)


@pytest.mark.parametrize("given", [{}, {"blocks.0.weight": torch.zeros(3)}])
def test_another_networks_checkpoint(tiny_net, given):
    with pytest.raises(UserError, match=r"of another network: 0 of 9 tensors match by name; 8 mis"):
        load_weights(tiny_net, given, **ARGS, allow_partial=True)


def test_not_a_state_dict(tiny_net):
    with pytest.raises(UserError, match="holds a list, not a state dict of named tensors"):
        load_weights(tiny_net, [1, 2], **ARGS)

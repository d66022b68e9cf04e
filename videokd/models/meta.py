"""Networks without storage: on the meta device, where tensors have shapes and no values."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def on_meta(network: Network) -> Network:
    """A copy whose weights and buffers have shapes and no storage; nothing is duplicated."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(network, memo)

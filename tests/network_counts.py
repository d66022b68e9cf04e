"""What a network is made of, counted without videokd: names, shapes, parameters, multiply-adds."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def shapes_of(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network, size, per_norm_element=0):
    norms = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.LayerNorm):
            module.register_forward_hook(lambda _m, _a, output: norms.append(output.numel()))
    num_frames, px = size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, num_frames, px, px, device="meta"))
    return counter.get_total_flops() / 2 + per_norm_element * sum(norms)

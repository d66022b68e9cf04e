"""A deployed network as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from videokd.models.deployed.form import Deployed


def compiled(form: Deployed, example: Tensor) -> Callable[[Tensor], Tensor]:
    """`form` through `torch.compile`, as one graph.

    On a CPU the weights become constants of the code (inductor's freezing), laid out once as
    oneDNN wants them, with activations and residual sums inside the convolutions. A change of
    `form` afterwards is not seen there. The clips of a batch go through one after the other: what
    one clip writes is still in the cache where the next operation reads it. It is compiled by the
    time this returns.

    Args:
        form: on the device where it is to run.
        example: a batch as it will come: shape, number format, layout, device.

    Returns:
        A function of clips, run in inference mode. Clips of another shape, number format or layout
        than the example's are compiled anew.
    """
    run = _Compiled(form)
    run(example)
    return run


class _Compiled:
    def __init__(self, form: Deployed) -> None:
        self._run: Callable[[Tensor], Tensor] = torch.compile(form, fullgraph=True, dynamic=False)
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, clips: Tensor) -> Tensor:
        if clips.device.type == "cpu" and len(clips) > 1:
            return torch.cat([self(clip) for clip in clips.split(1)])
        # What dynamo tells one graph from another by.
        key = (clips.shape, clips.stride(), clips.dtype, clips.device, clips.is_inference())
        with torch.inference_mode():
            if key in self._seen:
                return self._run(clips)
            self._seen.add(key)
            with _settings(clips):
                return self._run(clips)


@contextmanager
def _settings(clips: Tensor) -> Iterator[None]:
    import torch._dynamo.config as dynamo_config  # heavy, and for this alone
    import torch._inductor.config as inductor_config

    with (
        # Dynamo, too, reads this while it traces: as an option of `torch.compile` it comes too
        # late, and the weights stay arguments that cannot be laid out ahead.
        inductor_config.patch(freezing=clips.device.type == "cpu"),
        # All networks share one `forward`, and dynamo counts their graphs together.
        dynamo_config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16),
    ):
        yield

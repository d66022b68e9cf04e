"""A teacher's output as rows of a cache, and rows as its output.

Letters: **N** clips, **K** classes, **D** pooled features, **C t h w** a tap's axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from videokd.errors import UserError
from videokd.teacher_cache.contents import (
    ATTENTION,
    ATTENTION_SECONDS,
    CLASS_IDS,
    LOGITS,
    OTHERS_LOGSUMEXP,
    POOLED,
    Contents,
    features_of,
    seconds_of,
)
from videokd.teacher_cache.shards import draw_digest
from videokd.teacher_cache.sparse import TopLogits, filled_logits, top_logits
from videokd.types import Draw, ModelOutput, TapOutput


def rows_of(output: ModelOutput, draws: Sequence[Draw], contents: Contents) -> NDArray[np.void]:
    """What is kept of N clips, one row a draw.

    Raises:
        UserError: a number that float16 does not hold; it names the tap.
    """
    fields = _fields_of(output, contents)
    rows = np.empty(len(draws), dtype=contents.row_type)
    rows["video_id"] = [draw.video_id for draw in draws]
    rows["repeat"] = [draw.repeat for draw in draws]
    rows["draw"] = [draw_digest(draw) for draw in draws]
    for name, tensor in fields.items():
        rows[name] = tensor.detach().cpu().numpy()
    return rows


def output_of(rows: NDArray[np.void], contents: Contents, device: torch.device) -> ModelOutput:
    """The output that N rows were made of, rounded to float16; what was not kept is left out.

    Pooled features that were not kept are [N, 0]. No term of a recipe that was let in reads them.
    """

    def field(name: str) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(rows[name]))
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    if contents.top_k is None:
        logits = field(LOGITS).float()
    else:
        top = TopLogits(field(LOGITS), field(CLASS_IDS), field(OTHERS_LOGSUMEXP))
        logits = filled_logits(top, contents.num_classes)
    keeps_attention = contents.attention_steps is not None
    return ModelOutput(
        logits=logits,
        pooled=logits.new_empty(len(rows), 0)
        if contents.pooled_dim is None
        else field(POOLED).float(),
        taps={
            name: TapOutput(field(features_of(name)).float(), field(seconds_of(name)))
            for name in contents.taps
        },
        attention=field(ATTENTION) if keeps_attention else None,
        attention_seconds=field(ATTENTION_SECONDS) if keeps_attention else None,
    )


def _fields_of(output: ModelOutput, contents: Contents) -> dict[str, torch.Tensor]:
    """Field -> [N, ...], on the device of the output."""
    fields: dict[str, torch.Tensor] = {}
    if contents.top_k is None:
        fields[LOGITS] = _halved(output.logits, "the logits")
    else:
        _halved(output.logits, "the logits")
        top = top_logits(output.logits, contents.top_k)
        fields |= {
            LOGITS: top.logits,
            CLASS_IDS: top.class_ids,
            OTHERS_LOGSUMEXP: top.others_logsumexp,
        }
    if contents.pooled_dim is not None:
        fields[POOLED] = _halved(output.pooled, "the pooled features")
    if contents.attention_steps is not None:
        assert output.attention is not None
        assert output.attention_seconds is not None
        fields[ATTENTION] = output.attention.float()
        fields[ATTENTION_SECONDS] = output.attention_seconds.float()
    for name in contents.taps:
        tap = output.taps[name]
        fields[features_of(name)] = _halved(tap.features, f"tap {name!r}")
        fields[seconds_of(name)] = tap.step_seconds.float()
    return fields


def _halved(values: torch.Tensor, what: str) -> torch.Tensor:
    """In float16.

    Raises:
        UserError: some are beyond its range, or no numbers.
    """
    halved = values.detach().half()
    if not torch.isfinite(halved).all():  # waits for the device, once a tensor
        largest = float(values.detach().abs().max())
        raise UserError(
            f"{what} of the teacher cannot be kept in float16 (largest {largest:g}, its limit is "
            "65504); take another tap, or train with the teacher itself: teacher.cache=null"
        )
    return halved

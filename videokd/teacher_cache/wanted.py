"""What of a teacher's output an objective reads, and so what a cache has to hold for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from videokd.distill.losses.base import check_tap
from videokd.distill.terms import ObjectiveConfig
from videokd.errors import ConfigError
from videokd.teacher_cache.contents import Contents
from videokd.types import ModelOutput, TapShape


class Wanted(NamedTuple):
    """What has to be held of each clip, beside the largest logits."""

    whole_logits: str | None
    """The term that needs all of them, if one does."""
    pooled: bool
    attention: bool
    taps: dict[str, str]
    """Tap of the teacher -> the first term that reads it."""

    def check_names(self, known: Collection[str]) -> None:
        """Refuse a tap that the teacher does not have: no cache of it would ever hold that.

        Raises:
            ConfigError: in the words of a run with the teacher online.
        """
        for tap, term in self.taps.items():
            check_tap(term, "teacher", tap, known)

    def lacking(self, contents: Contents) -> str:
        """What of this is not held; empty where all is."""
        if self.whole_logits is not None and contents.top_k is not None:
            return (
                f"all logits for the term {self.whole_logits!r}, not the {contents.top_k} largest"
            )
        if self.pooled and contents.pooled_dim is None:
            return "pooled features"
        if self.attention and contents.attention_steps is None:
            return "attention weights"
        missing = [name for name in self.taps if name not in contents.taps]
        return f"tap {missing[0]!r}" if missing else ""


def wanted_by(objective: ObjectiveConfig) -> Wanted:
    """What the active terms read."""
    reads = {name: term.reads for name, term in objective.active_terms.items()}
    taps: dict[str, str] = {}
    for name, term in objective.active_terms.items():
        for pair in term.tap_pairs:
            taps.setdefault(pair.teacher_tap, name)
    of_logits = [name for name, what in reads.items() if what == "logits"]
    return Wanted(
        whole_logits=of_logits[0] if of_logits else None,
        pooled="pooled" in reads.values(),
        attention="attention" in reads.values(),
        taps=taps,
    )


def contents_for(wanted: Wanted, output: ModelOutput, *, top_k: int | None) -> Contents:
    """What a row holds, from one output of the teacher.

    Raises:
        ConfigError: a term needs more than the largest logits, or attention that the teacher does
            not have.
    """
    num_classes = output.logits.shape[1]
    if top_k is not None and wanted.whole_logits is not None:
        raise ConfigError(
            f"--logits top-{top_k}: the term {wanted.whole_logits!r} needs all logits; take "
            "--logits whole"
        )
    if top_k is not None and top_k > num_classes:
        raise ConfigError(
            f"--logits top-{top_k}: there are {num_classes} classes; take fewer, or whole"
        )
    if wanted.attention and output.attention is None:
        raise ConfigError(
            "objective: temporal_attention with source 'weights' needs a teacher with attention "
            "weights, and this one has none; take source 'map'"
        )
    return Contents(
        num_classes=num_classes,
        top_k=top_k,
        pooled_dim=output.pooled.shape[1] if wanted.pooled else None,
        attention_steps=output.attention.shape[1]
        if wanted.attention and output.attention is not None
        else None,
        taps={name: TapShape(*output.taps[name].features.shape[1:]) for name in wanted.taps},
    )

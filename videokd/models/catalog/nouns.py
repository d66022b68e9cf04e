"""What the catalogue says of a network: plain data, read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from videokd.models.catalog.costs import Cost
    from videokd.models.zoo import ModelConfig

Convention = Literal["mac", "flop", "fvcore", "mmaction2"]
"""How a published number of operations was counted."""
Layout = Literal["pytorchvideo", "torchvision", "mmaction2", "mit_tsm", "huggingface", "timm"]
"""Whose names the tensors of a published file have."""
Role = Literal["teacher", "student"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What its authors say of a network. Their numbers, measured on their copy of the data."""

    dataset: str
    """`kinetics400`, `something_v2`, `charades`."""
    top1_pct: float | None
    top5_pct: float | None
    views: str
    """Clips x crops of a video, such as `10x3`."""
    protocol: str | None
    """The named protocol of `videokd.data.sampling.protocols` that shows the same views; None
    where there is none."""
    source: str
    """Address, or paper and table."""
    params_m: float | None = None
    """Millions of parameters, as published."""
    gmacs_per_view: float | None = None
    """The published number of operations of one view, in 1e9, counted by `convention`."""
    convention: Convention | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """Where published weights lie."""

    url: str
    sha256_prefix: str | None
    """First hex digits of the file's SHA-256, where its authors publish them."""
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One network of the catalogue."""

    name: str
    family: str
    """`slowfast`, `x3d`, `tsm` ...: how `videokd models` groups them."""
    role: Role
    settings: Mapping[str, Any]
    """Plain data of a `ModelConfig`, `kind` and `input` included."""
    num_classes: int
    """Of the published weights."""
    published: Published | None = None
    weights: PublishedFile | None = None
    note: str = ""
    """Where a published number or view is not what ours would be, and how."""

    @property
    def cost(self) -> Cost:
        """Parameters and multiply-adds, counted."""
        from videokd.models.catalog.costs import COSTS

        return COSTS[self.name]

    def config(self) -> ModelConfig:
        """The checked settings of the network."""
        from pydantic import TypeAdapter

        from videokd.models.zoo import ModelConfig

        adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
        return adapter.validate_python(dict(self.settings))

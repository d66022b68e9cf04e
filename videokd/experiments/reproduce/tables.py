"""Published tables as YAML: one file a source, one row a published network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, create_model, model_validator

import videokd
from videokd.config import Config, did_you_mean, laid_over, load_config, parse_config
from videokd.data.sampling.protocols import protocol_named
from videokd.errors import ConfigError, UserError
from videokd.models.catalog import entry

Quantity = Literal["params_m", "gops"]
Convention = Literal["mac", "flop", "fvcore", "mmaction2"]

PARAMS_TOLERANCE_M = 0.01
GOPS_TOLERANCE_PART = 0.001
"""A thousandth of the published number."""


class NetworkInput(Config):
    """What a network was given when it was counted or tested."""

    num_frames: int = Field(ge=1)
    """Of one view; a network with two pathways is given the faster one's."""
    crop_px: int = Field(ge=1)
    """Side of the square."""


class KnownError(Config):
    """A published number that is wrong, and what it is the number of."""

    quantity: Quantity
    what: str
    """What the source did, in a sentence."""
    num_classes: int | None = Field(None, ge=1)
    """With these changes the published number comes out: that is the evidence."""
    num_frames: int | None = Field(None, ge=1)
    crop_px: int | None = Field(None, ge=1)
    convention: Convention | None = None
    change: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the network laid over the row's."""
    tolerance: float | None = Field(None, gt=0)
    """How far off the published number then still is, where its source cut digits off instead of
    rounding, or rounded twice: at most a unit of its last digit."""

    @model_validator(mode="after")
    def _evidence_is_given(self) -> KnownError:
        changed = (self.num_classes, self.num_frames, self.crop_px, self.convention)
        if not any(changed) and not self.change and self.tolerance is None:
            raise ValueError(
                "a known error needs its evidence: the num_classes, num_frames, crop_px, "
                "convention, change or tolerance with which the published number comes out"
            )
        return self


class TableRow(Config):
    """One network of a published table. Numbers stand as the source prints them."""

    name: str
    model: str | None = None
    """A name of `videokd models`."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Of a network that has no name; with `model`, laid over its settings. Its `input` may be left
    out: a count takes `input` below, an accuracy needs all of it."""
    num_classes: int = Field(400, ge=1)
    input: NetworkInput
    """As it was counted."""
    source: str | None = None
    """Where in the table's source, if it needs saying."""
    params_m: float | None = Field(None, gt=0)
    """Published parameters, 1e6."""
    params_tolerance_m: float = Field(PARAMS_TOLERANCE_M, gt=0)
    """Half a unit of the last published digit where that is more than 0.01."""
    gops: float | None = Field(None, gt=0)
    """Published operations of one view, 1e9, whatever its authors call them."""
    convention: Convention = "mac"
    """What `gops` counts."""
    gops_tolerance: float | None = Field(None, gt=0)
    """Half a unit of the last published digit where that is more than a thousandth."""
    dataset: str | None = None
    """What the accuracy is on: kinetics400, something_v2."""
    views: str | None = None
    """Clips x crops, as published."""
    protocol: str | None = None
    """The named protocol of `videokd eval --protocol` that shows those views."""
    top1_pct: float | None = Field(None, ge=0, le=100)
    top5_pct: float | None = Field(None, ge=0, le=100)
    num_videos: int | None = Field(None, ge=1)
    """Videos that its authors tested on, where they say."""
    top1_tolerance_pct: float = Field(0.5, ge=0)
    """Points by which the interval of a measured accuracy is widened: copies of a data set miss
    other videos, and decoders and resizers differ."""
    note: str = ""
    known_errors: tuple[KnownError, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> TableRow:
        if self.model is None and "kind" not in self.settings:
            raise ValueError(f"row {self.name!r} needs a model, or settings with a kind")
        if self.params_m is None and self.gops is None and self.top1_pct is None:
            raise ValueError(f"row {self.name!r} has no published number")
        if self.top1_pct is not None and self.dataset is None:
            raise ValueError(f"row {self.name!r} has a top1_pct and no dataset that it is on")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> TableRow:
        # Without videos nothing else would look at a protocol: a slip would stay a SKIP.
        try:
            if self.model is not None:
                entry(self.model)
            if self.protocol is not None:
                protocol_named(self.protocol)
        except UserError as error:
            raise ValueError(f"row {self.name!r}: {error}") from None
        return self

    @property
    def allowed_gops(self) -> float:
        """By how much counted operations may differ, 1e9."""
        if self.gops_tolerance is not None:
            return self.gops_tolerance
        return GOPS_TOLERANCE_PART * (self.gops or 0.0)

    def known_error(self, quantity: Quantity) -> KnownError | None:
        """What is wrong with a published number, if it is known to be."""
        return next((error for error in self.known_errors if error.quantity == quantity), None)


class Table(Config):
    """All that one source published."""

    name: str
    source: str
    """Address, with the commit or version that was read."""
    rows: tuple[TableRow, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Table:
        names = [row.name for row in self.rows]
        if not names:
            raise ValueError("rows: a table has at least one row")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rows are named {name!r}")
        return self


def load_table(path: Path) -> Table:
    """Read and check a table.

    Raises:
        ConfigError: an unknown key with the nearest known one, a wrong type, a row without
            numbers; always with the dotted path.
    """
    return load_config(Table, path)


def tables_folder() -> Path:
    """`configs/tables` of the current folder, or of the checkout that this package lies in."""
    beside = Path(videokd.__file__).parents[1]
    for folder in (Path.cwd(), beside):
        if (folder / "configs" / "tables").is_dir():
            return folder / "configs" / "tables"
    raise ConfigError(
        f"no folder configs/tables in {Path.cwd()}; run this where the project is checked out, or "
        "give the path of a table"
    )


def all_tables() -> dict[str, Table]:
    """Every table of the folder by its file's name."""
    paths = sorted(tables_folder().glob("*.yaml"))
    return {path.stem: load_table(path) for path in paths}


def find_tables(name: str) -> dict[str, Table]:
    """The tables meant by `zoo` (all of them), by a file's name in the folder, or by a path.

    Raises:
        ConfigError: there is none of that name; with the nearest one.
    """
    if name == "zoo":
        return all_tables()
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return {str(path): load_table(path)}  # as a command has to name it
    known = sorted(path.stem for path in tables_folder().glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"no table is named {name!r}; {did_you_mean(name, ['zoo', *known])}")
    return {name: load_table(tables_folder() / f"{name}.yaml")}


def network_settings(row: TableRow, error: KnownError | None = None) -> dict[str, Any]:
    """Plain data of the row's `ModelConfig`, its input as it was counted.

    Raises:
        UserError: the catalogue has no network of that name.
    """
    settings: dict[str, Any] = {}
    if row.model is not None:
        settings = dict(entry(row.model).settings)
    settings = laid_over(settings, row.settings)
    if error is not None:
        settings = laid_over(settings, error.change)
    num_frames = (error and error.num_frames) or row.input.num_frames
    crop_px = (error and error.crop_px) or row.input.crop_px
    settings["input"] = _as_counted(settings.get("input", {}), num_frames, crop_px)
    return settings


def _as_counted(given: Any, num_frames: int, crop_px: int) -> Any:
    """An input of these sizes; what is no input stays as it is, for `model_config` to refuse."""
    if not isinstance(given, dict):
        return given
    short_side_px = given.get("short_side_px", crop_px)
    if isinstance(short_side_px, int):
        short_side_px = max(crop_px, short_side_px)
    return given | {
        "sampling": _with_num_frames(given.get("sampling"), num_frames),
        "crop_px": crop_px,
        "short_side_px": short_side_px,
    }


def _with_num_frames(sampling: Any, num_frames: int) -> Any:
    if sampling is None:
        return {"kind": "dense", "num_frames": num_frames, "stride": 1}
    if not isinstance(sampling, dict):
        return sampling
    count = "num_segments" if sampling.get("kind") == "segment" else "num_frames"
    return sampling | {count: num_frames}


def model_config(settings: dict[str, Any], *, source: str) -> Any:
    """The checked `ModelConfig`; `ConfigError` naming the table and row otherwise."""
    checked: Any = parse_config(_holder(), {"model": settings}, source=source)
    return checked.model


@cache
def _holder() -> type[Config]:
    """A `Config` with the one field `model`; made when it is needed, for it imports torch."""
    from videokd.models.zoo import ModelConfig

    return create_model("RowModel", __base__=Config, model=(ModelConfig, ...))

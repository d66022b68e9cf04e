"""Published accuracies against ours: the row's protocol, run on a user's copy of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from videokd.config import laid_over
from videokd.errors import UserError
from videokd.experiments.reproduce.result import Outcome, Status
from videokd.experiments.reproduce.tables import (
    Table,
    TableRow,
    model_config,
    network_settings,
)
from videokd.files import read_text
from videokd.metrics import interval_text
from videokd.models.catalog import entry

if TYPE_CHECKING:
    from videokd.data.index import Index
    from videokd.metrics import EvalMetrics
    from videokd.models.video_model import VideoModel

_CLIPS_AT_A_TIME = 32
_SUFFIXES = (".pt", ".pth", ".pyth", ".bin", ".safetensors")
_NOT_THE_NETWORK: Any = {
    **dict.fromkeys(("input", "taps", "pretrained", "dropout", "drop_path", "zero_init"), True),
    "head_pool_px": True,
    "backbone_kwargs": {"zero_init_last"},
}
"""Settings in which a trained network may differ from the row's: how it was trained, and for which
input."""


class DataSet(NamedTuple):
    """What published accuracies of a data set are measured on."""

    section: str
    """Of data/README.md."""
    split: str
    num_videos: int | None = None
    """Of that split as its authors list it; None where copies differ and a row has to say."""


DATA_SETS: Mapping[str, DataSet] = {
    "kinetics400": DataSet("Kinetics-400, -600, -700", "val"),
    "something_v2": DataSet("Something-Something v2", "val", 24_777),
}
OTHER_DATA_SET = DataSet("A folder per class", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a user has, to reproduce accuracies with."""

    index: Path | None = None
    """The index CSV of the data set."""
    weights: Path | None = None
    """A file of weights, a run folder, or a folder of those by the names of rows."""
    split: str | None = None
    """None: the one that the data set's published accuracies are measured on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: int = 2
    """Processes that decode."""
    quiet: bool = False


class _CannotRun(Exception):
    """What a row lacks, and how to get it."""


def reproduce_accuracy(tables: Mapping[str, Table], given: Given) -> list[Outcome]:
    """Every published top-1 that the data set at hand allows to check; SKIP says what is missing.

    A row passes when its number lies in the 95 % interval of the measured accuracy, widened by the
    row's `top1_tolerance_pct`.

    Raises:
        UserError: an index or weights that are there and cannot be used, a video that does not
            decode.
    """
    rows = [
        (name, row)
        for name, table in tables.items()
        for row in table.rows
        if row.top1_pct is not None
    ]
    if given.weights is not None and not given.weights.exists():
        raise UserError(f"{given.weights}: no such file or folder of weights")
    if _is_one(given.weights) and len(rows) > 1:
        raise UserError(
            f"{given.weights} is one network's weights, and {len(rows)} rows are asked for; name "
            "the row with --row, or give a folder with one entry a row"
        )
    index = _read_index(given.index)
    return [_outcome(name, row, index, given) for name, row in rows]


def _outcome(table: str, row: TableRow, index: Index | None, given: Given) -> Outcome:
    assert row.top1_pct is not None
    status: Status
    measured: float | None = None
    try:
        metrics, stamp = _measure(table, row, index, given)
    except _CannotRun as missing:
        status, reason = "SKIP", str(missing)
    else:
        measured = metrics.top1_pct
        status, reason = _judged(row, metrics)
        reason = f"{reason}; {stamp}"
    return Outcome(
        table=table,
        row=row.name,
        quantity="top1_pct",
        convention=row.protocol,
        published=row.top1_pct,
        measured=measured,
        tolerance=row.top1_tolerance_pct,
        status=status,
        reason=reason,
    )


def _judged(row: TableRow, metrics: EvalMetrics) -> tuple[Status, str]:
    assert row.top1_pct is not None
    low, high = metrics.interval_pct
    low, high = low - row.top1_tolerance_pct, high + row.top1_tolerance_pct
    inside = low <= row.top1_pct <= high
    where = "in" if inside else "outside"
    text = (
        f"{row.top1_pct:g} is {where} {interval_text((low, high), digits=2)}, the 95 % interval of "
        f"{metrics.top1_pct:.2f} widened by {row.top1_tolerance_pct:g}"
    )
    return ("PASS" if inside else "FAIL"), text


def _measure(
    table: str, row: TableRow, index: Index | None, given: Given
) -> tuple[EvalMetrics, str]:
    """The accuracy of a row's network, and what it was measured on.

    Raises:
        _CannotRun: the videos, the protocol or the weights are missing.
    """
    data_set = DATA_SETS.get(row.dataset or "", OTHER_DATA_SET)
    if row.protocol is None:
        why = f"; {row.note}" if row.note else ""
        raise _CannotRun(
            f"its views ({row.views or 'not said'}) are none of the named protocols, see "
            f"`videokd eval --help`{why}"
        )
    if index is None:
        raise _CannotRun(_no_videos(table, row, data_set))
    if len(index.classes) != row.num_classes:
        raise _CannotRun(
            f"{index.path} has {len(index.classes)} classes, the row is of {row.dataset} with "
            f"{row.num_classes}; give the index of {row.dataset}"
        )
    model, settings, source = _trained_network(table, row, index, given)
    split = given.split or data_set.split
    metrics = _evaluate(model, settings, row, index, split, given)
    expected = row.num_videos or data_set.num_videos
    of = f" of {expected:,}" if expected is not None else ""
    return metrics, (
        f"{metrics.num_videos:,}{of} videos of split {split}, protocol {row.protocol}, "
        f"weights {source}"
    )


def _no_videos(table: str, row: TableRow, data_set: DataSet) -> str:
    command = f"videokd reproduce {table} --row {row.name} --index INDEX.csv"
    weights = "weights: give --weights FILE_OR_RUN, no file of this very row is known"
    if (url := _published_address(row)) is not None:
        weights = f"weights: {url}, downloaded by itself or given as --weights FILE"
    elif row.model is None and "input" not in row.settings:
        weights = "weights: give --weights RUN, a run folder of ours"
    return (
        f"needs the videos of {row.dataset}: lay them out and index them as data/README.md says "
        f"under '{data_set.section}', then `{command}`; {weights}"
    )


def _published_address(row: TableRow) -> str | None:
    """Where the weights of this very row lie: of its catalogue name, if its numbers are the same.

    A name of the catalogue stands for one set of weights; other tables have the same network with
    weights of their own, or on another data set.
    """
    if row.model is None or row.settings:
        return None
    found = entry(row.model)
    if found.published is None or found.weights is None:
        return None
    theirs = (found.published.dataset, found.published.top1_pct, found.published.protocol)
    return found.weights.url if theirs == (row.dataset, row.top1_pct, row.protocol) else None


def _trained_network(
    table: str, row: TableRow, index: Index, given: Given
) -> tuple[VideoModel, Any, str]:
    """The network with its weights, its settings, and where they came from."""
    from videokd.recipe import load_trained

    path = _weights_of(row, given.weights)
    if path is not None and path.is_dir():
        trained = load_trained(path)
        if trained.classes != index.classes:
            raise UserError(
                f"{path}: was trained for other classes than those of {index.path}; give the index "
                "that it was trained with"
            )
        _refuse_another_network(table, row, trained.config.model, path)
        return trained.model, trained.config.model, str(path)
    if path is None and _published_address(row) is None:
        raise _CannotRun(
            f"no published file of this very row is known; give --weights with a run folder, a "
            f"file, or a folder that holds {row.name!r}"
        )
    return _published_network(table, row, index, path)


def _refuse_another_network(table: str, row: TableRow, theirs: Any, path: Path) -> None:
    """An accuracy under the row's name is that of the row's network."""
    wanted = model_config(network_settings(row), source=f"{table}/{row.name}")
    ours, given = (
        {"kind": config.kind} | config.model_dump(mode="json", exclude=_NOT_THE_NETWORK)
        for config in (wanted, theirs)
    )
    for key, value in ours.items():
        if given.get(key) != value:
            raise UserError(
                f"{path}: is another network than the row {row.name!r}: its {key} is "
                f"{given.get(key)!r}, the row's {value!r}; give a run of the row's network"
            )


def _published_network(
    table: str, row: TableRow, index: Index, path: Path | None
) -> tuple[VideoModel, Any, str]:
    from videokd.first_weights import InitConfig, find_weights, load_first_weights
    from videokd.models.zoo import create_video_model

    settings = _as_tested(row)
    if settings is None:
        raise _CannotRun(
            "a file of weights does not say how its network sees videos, and the row has neither a "
            "model of `videokd models` nor settings.input; give a run folder of ours"
        )
    weights = str(path) if path is not None else row.model
    try:
        find_weights(InitConfig(weights=weights))  # downloads it
    except UserError as error:
        if path is not None:
            raise
        raise _CannotRun(str(error)) from None
    _refuse_other_order(row, index)
    config = model_config(settings, source=f"{table}/{row.name}")
    model = create_video_model(config, num_classes=row.num_classes, taps=(), seed=0)
    load_first_weights(model, InitConfig(weights=weights), index.classes)
    return model, config, weights or ""


def _refuse_other_order(row: TableRow, index: Index) -> None:
    """Published classifiers answer in the order of their data set, whatever file they came in."""
    from videokd.models.weights import published_classes, refuse_other_classes

    if (theirs := published_classes(row.dataset or "")) is not None:
        refuse_other_classes(
            theirs,
            list(index.classes),
            source=str(index.path),
            whose=f"the published {row.dataset}",
            advice=f"give the index of {row.dataset}",
        )


def _as_tested(row: TableRow) -> dict[str, Any] | None:
    """The row's settings with the input that its accuracy is for; None where nobody says it."""
    if row.model is None:
        return dict(row.settings) if "input" in row.settings else None
    return dict(laid_over(dict(entry(row.model).settings), row.settings))


def _is_one(path: Path | None) -> bool:
    """Whether a path is one network's weights: a file, or a run folder."""
    from videokd.checkpoint import BEST

    return path is not None and (path.is_file() or (path / BEST).is_file())


def _weights_of(row: TableRow, given: Path | None) -> Path | None:
    """What a user gave for this row: itself, or the entry of a folder that has the row's name."""
    if given is None or _is_one(given):
        return given
    named = [path for path in sorted(given.iterdir()) if row.name in (path.name, path.stem)]
    return next((p for p in named if _is_one(p) and (p.is_dir() or p.suffix in _SUFFIXES)), None)


def _evaluate(
    model: VideoModel,
    config: Any,
    row: TableRow,
    index: Index,
    split: str,
    given: Given,
) -> EvalMetrics:
    from videokd.data.loading import DataConfig
    from videokd.data.sampling.protocols import protocol_named
    from videokd.engine.evaluate import EvalConfig, score_videos
    from videokd.metrics import accuracy_report
    from videokd.progress import show_progress
    from videokd.recipe import check_clip_length, create_fabric, eval_loader

    fabric = create_fabric(given.device, "fp32")
    num_views = protocol_named(row.protocol or "").num_views
    at_a_time = max(1, _CLIPS_AT_A_TIME // num_views)
    views = EvalConfig(protocol=row.protocol, batch_size=at_a_time)
    check_clip_length(config, views.views)
    data = DataConfig(index=index.path, num_workers=given.num_workers)
    loader = eval_loader(data, views, index, model.spec, split=split, fabric=fabric)
    bare = model.without_taps().to(fabric.device)
    with show_progress(f"evaluate {row.name}", quiet=given.quiet) as report:
        scores = score_videos(fabric, bare, loader, on_progress=report)
    return accuracy_report(scores.probabilities, scores.labels, index.classes)


def _read_index(path: Path | None) -> Index | None:
    if path is None:
        return None
    from videokd.data.index import read_index

    read_text(path)  # one plain line where there is none
    return read_index(path)

"""Every published size in configs/tables against our count, and every known error's evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from videokd.cli import main
from videokd.experiments.reproduce.complexity import (
    Counter,
    complexity_outcomes,
    reproduce_complexity,
    within,
)
from videokd.experiments.reproduce.tables import (
    PARAMS_TOLERANCE_M,
    KnownError,
    Table,
    TableRow,
    all_tables,
    network_settings,
)

TABLES = all_tables()
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]
SIZED = [(name, row) for name, row in ROWS if row.params_m is not None or row.gops is not None]
WRONG = [(name, row, error) for name, row in ROWS for error in row.known_errors]
COUNTER = Counter()

# Section 1 of the facts that the project was started with: row, frames, px, 1e6 parameters, 1e9
# operations, how those were counted, top-1.
FACTS = {
    "pytorchvideo": [
        ("slow_r50_8x8", 8, 256, 32.45, 54.52, "mac", 74.58),
        ("slowfast_r50_4x16", 32, 256, 34.48, 36.69, "fvcore", 75.34),
        ("slowfast_r50_8x8", 32, 256, 34.57, 65.71, "mac", 76.94),
        ("x3d_xs_4x12", 4, 182, 3.79, 0.91, "fvcore", 69.12),
        ("x3d_m_16x5", 16, 256, 3.79, 6.72, "fvcore", 75.94),
        ("r2plus1d_r50_16x4", 16, 256, 28.11, 76.45, "fvcore", 76.01),
        ("c2d_r50_8x8", 8, 256, 24.33, 25.89, "fvcore", 71.46),
        ("mvit_b_16x4", 16, 224, 36.61, 70.80, "fvcore", 78.85),
    ],
    "pyslowfast": [("x3d_m", 16, 224, 3.79, 4.73, "mac", 76.2)],
    "torchvision": [
        ("r3d_18", 16, 112, 33.37, 40.697, "mac", 63.200),
        ("r2plus1d_18", 16, 112, 31.51, 40.519, "mac", 67.463),
        ("s3d", 16, 224, 8.32, 17.979, "mac", None),
        ("swin3d_t", 16, 224, 28.16, 43.882, "mac", None),
    ],
    "mmaction2": [
        ("tsm_r50_8f", 8, 224, 24.33, 32.88, "mmaction2", 73.18),
        ("tsm_mobilenetv2_8f", 8, 256, 2.736, 3.269, "mmaction2", 68.71),
    ],
}


def ids(rows):
    return ["/".join((row[0], row[1].name)) for row in rows]


@pytest.mark.parametrize(("table", "row"), SIZED, ids=ids(SIZED))
def test_published_sizes_come_out(table: str, row: TableRow) -> None:
    for outcome in complexity_outcomes(table, row, COUNTER):
        if row.known_error(outcome.quantity) is None:
            assert outcome.status == "PASS", outcome.reason
            assert abs(outcome.published - outcome.measured) <= outcome.tolerance * (1 + 1e-9)
        else:
            assert outcome.status == "SKIP", outcome.reason
            assert outcome.reason.startswith("known error of the source: ")


@pytest.mark.parametrize(("table", "row", "error"), WRONG, ids=ids(WRONG))
def test_the_evidence_of_a_known_error_gives_the_published_number(
    table: str, row: TableRow, error: KnownError
) -> None:
    quantity = error.quantity
    published = row.params_m if quantity == "params_m" else row.gops
    allowed = row.params_tolerance_m if quantity == "params_m" else row.allowed_gops
    measured = COUNTER.measure(row, quantity, source=table, error=error)
    assert within(published, measured, error.tolerance or allowed)
    as_listed = COUNTER.measure(row, quantity, source=table)
    assert not within(published, as_listed, allowed), "then the source has no error"


@pytest.mark.parametrize("table", FACTS)
def test_all_rows_of_the_facts_are_there_and_agree(table: str) -> None:
    rows = {row.name: row for row in TABLES[table].rows}
    for name, num_frames, crop_px, params_m, gops, convention, top1_pct in FACTS[table]:
        row = rows[name]
        assert (row.input.num_frames, row.input.crop_px) == (num_frames, crop_px)
        assert (row.gops, row.convention, row.top1_pct) == (gops, convention, top1_pct)
        measured = COUNTER.measure(row, "params_m", source=table)
        assert measured == pytest.approx(params_m, abs=PARAMS_TOLERANCE_M)


def test_there_are_at_least_forty_rows_with_sizes() -> None:
    checked = [row for _, row in SIZED if not row.known_errors]
    assert len(checked) >= 40
    assert len({(name, row.name) for name, row in ROWS}) == len(ROWS)


def as_written() -> list[tuple[str, dict[str, str]]]:
    """Rows with their numbers as text, so that digits can be counted."""
    found = []
    for path in sorted(Path("configs/tables").glob("*.yaml")):
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        found += [(path.stem, row) for row in document["rows"]]
    return found


def unit_of(number: str) -> float:
    """What one more in the last digit is worth: 0.1 for `24.3`."""
    return 10.0 ** -len(number.partition(".")[2])


def test_no_tolerance_is_wider_than_the_published_digits() -> None:
    num_seen = 0
    for table, row in as_written():
        where = f"{table}/{row['name']}"
        for number, tolerance, usual in (
            ("params_m", "params_tolerance_m", PARAMS_TOLERANCE_M),
            ("gops", "gops_tolerance", 0.001 * float(row.get("gops", 0))),
        ):
            if tolerance in row:
                num_seen += 1
                half = unit_of(row[number]) / 2
                assert float(row[tolerance]) == pytest.approx(half), where
                assert half > usual, f"{where}: needs no {tolerance}"
        for error in row.get("known_errors", ()):
            if "tolerance" in error:
                assert float(error["tolerance"]) <= unit_of(row[error["quantity"]]), where
    assert num_seen > 10


def test_torchvisions_rows_are_what_it_says_of_its_weights() -> None:
    from torchvision.models import get_model_weights

    num_compared = 0
    for row in TABLES["torchvision"].rows:
        meta = get_model_weights(row.model).KINETICS400_V1.meta
        metrics = meta["_metrics"]["Kinetics-400"]
        num_compared += 1
        assert row.gops == meta["_ops"]
        if row.params_m is not None:
            assert row.params_m == meta["num_params"] / 1e6
        if row.top1_pct is not None:
            assert (row.top1_pct, row.top5_pct) == (metrics["acc@1"], metrics["acc@5"])
    assert num_compared >= 9


def test_every_source_is_an_address_and_every_network_one_that_is_known() -> None:
    for table in TABLES.values():
        assert table.source.startswith("https://")
    for _, row in ROWS:
        assert network_settings(row)["kind"]


def test_a_protocol_is_one_that_is_known_and_suits_the_network() -> None:
    from videokd.data.sampling.protocols import protocol_named
    from videokd.experiments.reproduce.accuracy import _as_tested
    from videokd.experiments.reproduce.tables import model_config

    num_checked = 0
    for table, row in ROWS:
        if row.protocol is None:
            continue
        protocol = protocol_named(row.protocol)
        assert row.views == f"{protocol.num_clips}x{protocol.num_crops}" or row.views == "25x10"
        if (settings := _as_tested(row)) is not None:
            num_checked += 1
            protocol.check(model_config(settings, source=table).input.sampling)
    assert num_checked > 40


TINY = {
    "name": "tiny",
    "source": "https://example.org",
    "rows": [
        {
            "name": "net",
            "settings": {"kind": "torchvision", "name": "r3d_18"},
            "input": {"num_frames": 2, "crop_px": 16},
            "num_classes": 400,
            "params_m": 33.371472,
            "gops": 50.0,
        }
    ],
}


def outcome_of(**changes):
    row = TINY["rows"][0] | changes
    table = Table.model_validate(TINY | {"rows": [row]})
    return {one.quantity: one for one in reproduce_complexity({"tiny": table})}


def test_a_wrong_number_fails_with_both_numbers() -> None:
    outcome = outcome_of()["gops"]
    assert outcome.status == "FAIL"
    assert outcome.published == 50.0
    assert 0 < outcome.measured < 50
    assert f"{outcome.measured:.4f} is not 50 within 0.05" in outcome.reason
    assert outcome_of()["params_m"].status == "PASS"


def test_a_known_error_that_is_none_fails() -> None:
    error = {"quantity": "params_m", "what": "nothing is", "num_classes": 7}
    outcome = outcome_of(known_errors=[error])["params_m"]
    assert outcome.status == "FAIL"
    assert "agrees, though listed as an error of its source: nothing is" in outcome.reason


def test_a_network_that_cannot_be_counted_fails_with_the_reason() -> None:
    outcome = outcome_of(settings={"kind": "torchvision", "name": "mvit_v1_b"})["gops"]
    assert (outcome.status, outcome.measured) == ("FAIL", None)
    assert "tiny/net" in outcome.reason
    assert "224" in outcome.reason


def test_progress_names_the_row_and_ends_full() -> None:
    told: list[tuple[int, int, str]] = []
    table = Table.model_validate(TINY)
    reproduce_complexity({"tiny": table}, on_progress=lambda *args: told.append(args))
    assert told == [(0, 1, "tiny/net"), (1, 1, "")]


def test_a_network_that_cannot_be_built_without_values_is_built_with_them(monkeypatch) -> None:
    """As one whose builder reads a number out of a tensor."""
    import torch

    import videokd.models.zoo

    build, devices = videokd.models.zoo.create_network, []

    def reads_a_number(config, num_classes):
        devices.append(torch.get_default_device().type)
        torch.ones(1).item()
        return build(config, num_classes)

    monkeypatch.setattr(videokd.models.zoo, "create_network", reads_a_number)
    assert outcome_of()["params_m"].status == "PASS"
    assert devices == ["meta", "cpu"]


def test_equal_networks_are_counted_once() -> None:
    counter = Counter()
    for row in Table.model_validate(TINY).rows:
        complexity_outcomes("tiny", row, counter)
        complexity_outcomes("tiny", row.model_copy(update={"convention": "fvcore"}), counter)
    assert len(counter._counts) == 1


def test_the_command_prints_json_and_exits_by_the_outcome(tmp_path, capsys) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    row = TINY["rows"][0]
    fits = outcome_of()["gops"].measured
    good.write_text(yaml.safe_dump(TINY | {"rows": [row | {"gops": fits}]}), encoding="utf-8")
    bad.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", str(good), "--json"])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [one["status"] for one in document] == ["PASS", "PASS"]
    assert list(document[0]) == [
        "table",
        "row",
        "quantity",
        "convention",
        "published",
        "measured",
        "tolerance",
        "status",
        "reason",
    ]
    assert "networks counted: 1/1" in captured.err
    with pytest.raises(SystemExit, match="1"):  # a FAIL
        main(["reproduce", str(bad), "--quiet"])
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0].startswith("PASS  bad/net params_m: published 33.3715, ours 33.371")
    assert lines[1].startswith("FAIL  bad/net gops [mac]: published 50, ours ")
    assert lines[-1] == "1 PASS, 1 FAIL, 0 SKIP"

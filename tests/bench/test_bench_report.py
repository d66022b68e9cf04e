from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from videokd.bench.report import (
    Section,
    confusion_section,
    markdown_table,
    results_table,
    write_report,
)
from videokd.bench.report import writing as report_module
from videokd.bench.report.paired import Comparison, paired_section
from videokd.bench.report.panels import panels_of
from videokd.bench.report.picture import (
    _draw_panels,
    log_ticks,
    pareto_png,
    pareto_svg,
    role_styles,
)
from videokd.bench.report.summary import findings, latency_section, origin_section
from videokd.bench.report.tables import NOT_MEASURED, markdown_escape, number
from videokd.bench.report.writing import results_csv
from videokd.bench.result import read_results
from videokd.errors import UserError
from videokd.metrics import paired_test

TIMES = "\N{MULTIPLICATION SIGN}"
VOID_TAGS = {"meta", "img", "source", "link", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.seen.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def printed(results, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(results_table(results))
    return capture.get()


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.00123, "0.00123"), (0.0123, "0.0123"), (0.1, "0.100"), (0.9996, "1.00"),
        (1.234, "1.23"), (9.999, "10.0"), (99.96, "100"), (123.4, "123"), (1635.4, "1635"),
        (None, NOT_MEASURED),
    ],
)  # fmt: skip
def test_numbers_for_reading(value, text):
    assert number(value) == text


@given(st.floats(1e-9, 1e9))
def test_numbers_for_reading_stay_within_half_a_percent(value):
    assert re.fullmatch(r"\d+(\.\d+)?", number(value))
    assert float(number(value)) == pytest.approx(value, rel=0.0051)


def test_the_markdown_table_of_a_known_result(make_result):
    result = make_result("a|b", num_views=30, quick=True, runs=10)
    assert markdown_table([result]) == (
        "| model | role | views | params M | GMACs/video | p50 ms | p95 ms | clips/s | top-1 % "
        "| top-5 % |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a\\|b | student | 30 | 0.700 | 3.60 | 10.0† | 11.0 | 100 "
        "| 90.0 \\[85.0, 93.5\\] | 99.0 |"
    )


def test_only_what_differs_in_the_settings_is_a_column(make_result):
    results = [make_result(batch=1), make_result(batch=8)]
    assert markdown_table(results).startswith("| model | role | batch | params M |")
    bare = make_result(top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None)
    assert markdown_table([bare]).endswith(f"| 100 | {NOT_MEASURED} | {NOT_MEASURED} |")


def test_the_terminal_table_shows_everything(story):
    text = in_one_line(printed(story))
    for expected in ("shift net", "no_temporal", "60.0", "66.0", "97.0 [94.0, 98.5]", "99.0"):
        assert expected in text
    assert "cpu: Some Processor, fp32, eager, batch 1, trained form, contiguous." in text
    assert "Accuracy over 240 videos" in text
    assert "Quick" not in text


def test_a_narrow_terminal_folds_and_cuts_nothing_off(story):
    lines = printed(story, width=72).splitlines()
    assert max(map(len, lines)) <= 72
    text = "".join("".join(lines).split())
    for result in story:
        assert str(result.top5_pct) in text
        assert result.role in text
    assert "…" not in text


def test_names_are_names_and_not_markup(make_result):
    assert "[red]net[/red]" in printed([make_result("[red]net[/red]")])
    assert markdown_escape("*a* b_c _d_ <i> [x] `y` \\ |") == (
        r"\*a\* b_c \_d\_ \<i\> \[x\] \`y\` \\ \|"
    )


def test_the_quick_form_says_so(make_result):
    text = in_one_line(printed([make_result(quick=True, runs=10)]))
    assert "10.0†" in text
    assert "† Quick form: 10 timed runs" in text


def test_findings_compare_student_teacher_and_control(story):
    gain, kept, cheaper, faster = findings(story)
    assert (gain.value, kept.value, cheaper.value, faster.value) == (
        "+7.0", "93.0 %", f"15{TIMES}", f"5.2{TIMES}",
    )  # fmt: skip
    assert gain.text.endswith("(93.0 against 86.0 %); the 95 % intervals overlap")
    assert "11.5 against 60.0 ms" in faster.text


def test_findings_are_silent_where_there_are_several_students_or_none(story, make_result):
    seeds = [*story, make_result("shift net", "student", top1_pct=91.0)]
    assert findings(seeds) == []
    assert findings(story[:2]) == []
    on_gpu = make_result("shift net", "student", device="cuda: X", top1_pct=93.0)
    assert [f.value for f in findings([story[0], on_gpu])] == ["93.0 %", f"15{TIMES}"]


def test_a_loss_is_told_as_one(story, make_result):
    worse = make_result(
        "shift net", "student", top1_pct=70.0, top1_interval_pct=(64.0, 75.0), p50=90.0
    )
    gain, *_, last = findings([*story[:2], worse])
    assert gain.value == "-16.0"
    assert gain.text.endswith("the 95 % intervals do not overlap")
    assert "fewer multiply-adds" in last.text, "slower than the teacher: no word of faster"


def test_a_section_has_as_many_cells_as_columns():
    with pytest.raises(UserError, match="section 'Training': row 1 has 1 cells for 2 columns"):
        Section("Training", ("model", "seconds"), [("a", 1.0), ("b",)])


def test_a_confusion_is_a_shaded_section():
    section = confusion_section("Confusion", ["a", "b"], [[3, 1], [0, 4]])
    assert section.columns == ["true \\ predicted", "a", "b"]
    assert section.rows == [["a", 3, 1], ["b", 0, 4]]
    assert section.heat_max == 4


@pytest.fixture
def written(story, tmp_path):
    sections = [
        Section("Training", ("model", "seconds"), [("slow", 201.26), ("<b>net", None)], "On <x>."),
        confusion_section("Confusion", ["a", "b"], [[3, 1], [0, 4]]),
    ]
    return write_report(
        story, tmp_path / "new" / "out", title="Study <1>", notes=["One <seed>."],
        commands=["videokd demo", "videokd report a b"], sections=sections, chance_pct=8.0,
    )  # fmt: skip


def test_a_report_is_five_files_and_the_numbers_come_back(written, story):
    assert [path.name for path in written] == [
        "report.md", "report.html", "pareto.png", "results.json", "results.csv",
    ]  # fmt: skip
    assert sorted(written.json.parent.iterdir()) == sorted(written)
    assert read_results(written.json) == story
    assert json.loads(written.json.read_text())[2]["role"] == "student"
    assert written.picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_the_markdown_holds_table_picture_notes_sections_and_commands(written, story):
    text = written.markdown.read_text(encoding="utf-8")
    assert text.startswith("# Study \\<1\\>\n\n- **+7.0** points of top-1")
    assert markdown_table(story) in text
    assert "](pareto.png)" in text
    assert "One \\<seed\\>." in text
    assert "| model | seconds |\n| --- | ---: |\n| slow | 201 |\n| \\<b\\>net | " in text
    assert "\n    videokd demo\n    videokd report a b\n" in text
    assert f"| git_sha | {'0' * 40} |" in text


def test_the_page_is_whole_and_needs_nothing_beside_it(written, story):
    page = Page(written.html.read_text(encoding="utf-8"))
    for text in ("Study <1>", "One <seed>.", "<b>net", "On <x>.", "97.0 [94.0,\u00a098.5]", "+7.0"):
        assert text in page.text
    for result in story:
        assert result.model in page.text
    sources = [v for _, name, v in page.attributes if name in ("src", "srcset", "href")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "b" not in page.seen[page.seen.index("table") :]
    assert page.seen.count("script") == 2, "the chart's data, and the chart"
    assert not {"link", "iframe", "object", "form"} & set(page.seen)


def test_the_page_shows_light_and_dark_pictures_that_are_xml(written):
    page = Page(written.html.read_text(encoding="utf-8"))
    dark, light = (v for _, name, v in page.attributes if name in ("src", "srcset"))
    for source, paper in ((light, b"#ffffff"), (dark, b"#161a1f")):
        svg = base64.b64decode(source.partition(",")[2])
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert paper in svg


def test_shades_grow_with_the_count(written):
    page = Page(written.html.read_text(encoding="utf-8"))
    shades = [v for tag, name, v in page.attributes if (tag, name) == ("td", "style")]
    strength = [float(re.search(r"/ ([\d.]+)\)", shade)[1]) for shade in shades]
    assert strength == pytest.approx([0.5 * (n / 4) ** 0.5 for n in (3, 1, 0, 4)], abs=1e-3)


def test_the_same_results_make_the_same_files(written, story, tmp_path):
    first = [path.read_bytes() for path in written]
    sections = [
        Section("Training", ("model", "seconds"), [("slow", 201.26), ("<b>net", None)], "On <x>."),
        confusion_section("Confusion", ["a", "b"], [[3, 1], [0, 4]]),
    ]
    again = write_report(
        story, tmp_path / "again", title="Study <1>", notes=["One <seed>."],
        commands=["videokd demo", "videokd report a b"], sections=sections, chance_pct=8.0,
    )  # fmt: skip
    assert [path.read_bytes() for path in again] == first


def test_the_csv_has_every_field_of_every_result(written, story):
    with written.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["role"] for row in rows] == [result.role for result in story]
    for row, result in zip(rows, story, strict=True):
        assert float(row["latency_ms.p95"]) == result.latency_ms.p95
        assert float(row["top1_interval_pct.1"]) == result.top1_interval_pct[1]
        assert row["top5_interval_pct"] == row["peak_mem_gib"] == ""
        assert row["versions.torch"] == "2.11.0"
    parts = {name.partition(".")[0] for name in rows[0]}
    assert parts >= {field.name for field in dataclasses.fields(story[0]) if field.name != "paths"}


def test_a_csv_cell_of_any_text_is_one_cell(make_result):
    name = 'a,"b"\r\nc'
    (row,) = csv.DictReader(io.StringIO(results_csv([make_result(name)]), newline=""))
    assert row["model"] == name


@pytest.fixture
def devices(make_result):
    """A network on two devices, another on one."""
    made = {"protocol": "test: 1 clips x 1 crops"}
    on_gpu = {"device": "cuda: Card", "dtype": "bf16", "p50": 0.5}
    return [
        make_result("a", command="videokd bench a", **made),
        make_result("a", command="videokd bench a", **made, **on_gpu),
        make_result("b", "teacher", p50=30.0, num_views=10, top1_pct=92.0, **made),
    ]


def test_latencies_of_one_network_stand_side_by_side(devices):
    section = latency_section(devices)
    assert section.columns == ["network", "cpu: Some Processor fp32", "cuda: Card bf16"]
    assert section.rows == [["a", 10.0, 0.5], ["b", 30.0, None]]
    assert latency_section([devices[0], devices[2]]) is None, "one setting"
    assert latency_section(devices[1:]) is None, "nothing beside one another"


def test_each_point_has_its_protocol_and_command(devices, story, tmp_path):
    section = origin_section(devices)
    protocol = "test: 1 clips x 1 crops"
    assert section.rows == [
        ("a", "student", protocol, "videokd bench a"),
        ("b", "teacher", protocol, ""),
    ]
    assert origin_section(story) is None
    paths = write_report(devices, tmp_path, title="t")
    row = f"| a | student | {protocol} | videokd bench a |"
    assert row in paths.markdown.read_text(encoding="utf-8")
    assert "videokd bench a" in Page(paths.html.read_text(encoding="utf-8")).text


def test_the_picture_has_a_panel_for_each_cost_that_tells(devices, story, make_result):
    def titles(results):
        return [panel.title.removesuffix(" (log scale)") for panel in panels_of(results)]

    assert titles(story) == ["Multiply-adds per video, GMACs", "Latency p50, ms per batch"]
    assert titles(devices) == [
        "Multiply-adds per video, GMACs", "Multiply-adds per view, GMACs", "Parameters, M",
        "CPU latency p50, ms per batch", "GPU latency p50, ms per batch",
    ]  # fmt: skip
    video, view, *_, gpu = panels_of(devices)
    assert [point.cost for point in video.points] == pytest.approx([0.12, 1.2])
    assert [point.cost for point in view.points] == pytest.approx([0.12, 0.12])
    assert [point.cost for point in gpu.points] == [0.5]
    many = [make_result(f"net {n}", batch=batch) for n in range(6) for batch in (1, 8)]
    latency = panels_of([*many, make_result("other", batch=8)])[-1]
    assert latency.title == "Latency p50, ms per batch, fp32, eager, batch 8 (log scale)"
    assert [point.label for point in latency.points] == [*(f"net {n}" for n in range(6)), "other"]


def test_five_panels_are_drawn_as_well(devices):
    assert pareto_png(devices).startswith(b"\x89PNG")
    assert len(pareto_svg(devices)) > len(pareto_svg(devices[:1]))


def compared(only_student: int, only_control: int) -> Comparison:
    a = np.repeat([True, False, True, False], [150, 40, only_student, only_control])
    b = np.repeat([True, False, False, True], [150, 40, only_student, only_control])
    return Comparison(
        "shift net", "shift net", "student", "control", "videokd compare s c", paired_test(a, b)
    )


def test_a_gain_inside_the_noise_is_called_that(story, tmp_path):
    noise, real = compared(27, 23), compared(45, 5)
    for comparison, words in ((noise, "inside the noise"), (real, "a real gain")):
        gain = findings(story, [comparison])[0]
        low, high = comparison.test.interval_pct
        assert f"; 95 % interval of the gain [{low:.1f}, {high:.1f}]: {words}" in gain.text
        assert "overlap" not in gain.text
        paths = write_report(story, tmp_path, title="t", comparisons=[comparison])
        text = paths.markdown.read_text(encoding="utf-8")
        assert "## Paired comparisons" in text
        assert (
            f"| student: shift net | control: shift net | {words} "
            f"| {comparison.test.difference_pct:+.1f} |" in text
        )
        assert "| 240 videos |" in text
        assert "the noise of training is not in it" in text
    assert "0.672" in str(paired_section([noise]).rows)
    assert "<0.001" in str(paired_section([real]).rows)
    assert paired_section([]) is None
    assert "Each of the 2 is made at 5 % for itself." in paired_section([noise, real]).note


def test_a_comparison_of_other_networks_says_nothing_of_the_gain(story):
    other = dataclasses.replace(compared(45, 5), b="slow", role_b="teacher")
    assert "the 95 % intervals overlap" in findings(story, [other])[0].text


def test_what_cannot_be_drawn_is_named(story, make_result, tmp_path):
    bare = make_result(
        "unseen", top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None
    )
    paths = write_report([*story, bare], tmp_path, title="t")
    sentence = "Not in the picture, since no accuracy was measured: unseen."
    assert sentence in paths.markdown.read_text(encoding="utf-8")
    assert sentence in Page(paths.html.read_text(encoding="utf-8")).text
    assert write_report([bare], tmp_path, title="t").picture.stat().st_size > 1000


def test_a_report_that_fails_leaves_the_old_one_alone(story, tmp_path, monkeypatch):
    paths = write_report(story, tmp_path, title="old")
    before = {path: path.read_bytes() for path in paths}

    def fail(*args, **kwargs):
        raise RuntimeError("no ink")

    monkeypatch.setattr(report_module, "pareto_png", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(story[:2], tmp_path, title="new")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_is_one_plain_line(story, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out: the report cannot be written: "):
        write_report(story, tmp_path / "file" / "out", title="t")
    with pytest.raises(UserError, match="a report needs at least one result"):
        write_report([], tmp_path, title="t")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_in_the_picture_do_not_lie_over_one_another(story, make_result):
    crowd = [make_result(f"a network {n}", "student", top1_pct=88.0 + n, p50=10.0 + n / 4)
             for n in range(4)]  # fmt: skip
    for results in (story, crowd):
        figure = Figure(figsize=(11, 5.6), dpi=100)
        _draw_panels(figure, results, "light", 8.0)
        figure.draw_without_rendering()
        for axes in figure.axes:
            texts = [text for text in axes.texts if not text.get_text().startswith("chance")]
            assert len(texts) == 4
            extents = [text.get_window_extent() for text in texts]
            assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
            assert all(axes.bbox.x0 <= e.x0 and e.x1 <= axes.bbox.x1 for e in extents)


def test_names_are_never_read_as_formulas(make_result):
    picture = pareto_svg([make_result("$\\frac{1}{")])
    assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_drawing_leaves_the_callers_settings_alone(story):
    before = dict(mpl.rcParams)
    pareto_png(story)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.09, 2.2, [0.1, 0.2, 0.5, 1.0, 2.0]),
        (4.0, 900.0, [10.0, 30.0, 100.0, 300.0]),
        (0.5, 20000.0, [1.0, 10.0, 100.0, 1000.0, 10000.0]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert log_ticks(low, high) == ticks


def test_roles_look_different():
    styles = role_styles(["teacher", "control", "student", "no_temporal", "peer", "smoothed"])
    assert len({style.marker for style in styles.values()}) == 6
    assert len({style.light for style in styles.values()}) == 6


def test_the_report_needs_neither_torch_nor_pyplot(story, tmp_path):
    """`videokd report` starts quickly, and draws without a display or shared figures."""
    (tmp_path / "r.json").write_text(json.dumps([result.to_dict() for result in story]))
    code = (
        "import sys\n"
        "from videokd.bench.report import write_report\n"
        "from videokd.bench.result import read_results\n"
        "write_report(read_results(sys.argv[1]), sys.argv[2], title='t')\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.json"), str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=120)
    assert (tmp_path / "out" / "pareto.png").is_file()

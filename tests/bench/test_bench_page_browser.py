"""The report's page in a real browser: what a reader sees, points at, and types."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Tab, browser_path

from videokd.bench.report import pareto_front, write_report
from videokd.bench.result import BenchmarkResult

CPU = "cpu: Some Processor, fp32, eager, batch 1"
GPU = "cuda: Some Card, bf16, graph, batch 8"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture
def results(make_result) -> list[BenchmarkResult]:
    """Four networks on the CPU; two of them on a GPU too, where the student is not ahead."""
    changes = {"top5_interval_pct": (98.0, 99.5), "protocol": "test: 1 clips x 1 crops"}
    teacher = changes | {"gmacs_per_view": 0.9, "num_views": 10, "top1_pct": 97.0,
                         "params_m": 3.5, "top1_interval_pct": (94.0, 98.5)}  # fmt: skip
    student = changes | {"top1_pct": 93.0, "top1_interval_pct": (89.0, 95.6),
                         "command": "videokd eval runs/s && videokd bench runs/s"}  # fmt: skip
    on_gpu = {"device": "cuda: Some Card", "dtype": "bf16", "mode": "graph", "batch": 8}
    return [
        make_result("slow", "teacher", p50=60.0, throughput_clips_s=17.0, **teacher),
        make_result("slow", "teacher", p50=2.0, throughput_clips_s=4000.0, **teacher, **on_gpu),
        make_result("shift net", "control", top1_pct=86.0, top1_interval_pct=(81.0, 90.0)),
        make_result("shift net", "student", p50=11.5, throughput_clips_s=90.0, **student),
        make_result("shift net", "student", p50=2.5, throughput_clips_s=3200.0, **student,
                    **on_gpu, ),
        make_result("flat net", "no_temporal", gmacs_per_view=0.1, p50=9.0, top1_pct=12.0,
                    top5_pct=99.5, top1_interval_pct=(8.4, 16.8)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def written() -> dict[str, Path]:
    """The report that most tests look at; its pictures take seconds to draw."""
    return {}


@pytest.fixture
def page(results: list[BenchmarkResult], written: dict[str, Path], tmp_path: Path) -> Path:
    if not written:
        written["page"] = write_report(results, tmp_path, title="Study", chance_pct=8.0).html
    return written["page"]


def names(tab: Tab) -> list[str]:
    """Names of the points, from left to right."""
    spoken = "[...document.querySelectorAll('.point')].map(p => p.getAttribute('aria-label'))"
    return [text.partition(";")[0] for text in tab.value(spoken)]


def on_front(tab: Tab) -> set[str]:
    marked = tab.value(
        "[...document.querySelectorAll('.point')].map(p => p.classList.contains('best'))"
    )
    return {name for name, best in zip(names(tab), marked, strict=True) if best}


def centre(tab: Tab, selector: str, position: int = 0) -> tuple[float, float]:
    x, y = tab.value(
        f"(() => {{ const r = document.querySelectorAll({selector!r})[{position}]"
        ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return x, y


def point_at(tab: Tab, name: str) -> tuple[float, float]:
    return centre(tab, ".point .mark", names(tab).index(name))


def choose(tab: Tab, select: str, text: str) -> None:
    """Choose an option by its text, as a reader does: focus the list and type."""
    options = tab.value(f"[...document.getElementById({select!r}).options].map(o => o.text)")
    tab.value(f"document.getElementById({select!r}).focus()")
    now = tab.value(f"document.getElementById({select!r}).selectedIndex")
    steps = options.index(text) - now
    key, code = ("ArrowDown", 40) if steps > 0 else ("ArrowUp", 38)
    for _ in range(abs(steps)):
        tab.key(key, code)
    assert tab.value(f"document.getElementById({select!r}).selectedOptions[0].text") == text


def tip(tab: Tab) -> str | None:
    if tab.value("document.getElementById('tip').hidden"):
        return None
    return tab.value("document.getElementById('tip').innerText")


def test_the_chart_stands_in_the_pictures_place_and_nothing_is_fetched(browser, page):
    tab = browser.open(page)

    assert tab.value("getComputedStyle(document.getElementById('picture')).display") == "none"
    assert names(tab) == [
        "flat net", "control: shift net", "student: shift net", "slow",
    ]  # fmt: skip
    assert tab.complaints() == []
    addresses = [url for url in tab.requests() if not url.startswith("data:")]
    assert addresses == [page.resolve().as_uri()]


def test_the_tooltip_follows_the_mouse(browser, page):
    tab = browser.open(page)
    assert tip(tab) is None

    tab.move(*point_at(tab, "student: shift net"))

    text = tip(tab)
    for words in (
        "shift net student", "93.0 [89.0,\u00a095.6] %", "99.0 [98.0,\u00a099.5] %", "240",
        "0.120 GMACs per video", "0.700 M", "8 frames of 56 px",
        "11.5 ms (fp32, eager, batch 1)", "2.50 ms (bf16, graph, batch 8)",
        "test: 1 clips x 1 crops", "videokd eval runs/s && videokd bench runs/s",
    ):  # fmt: skip
        assert words in text
    tab.move(*point_at(tab, "slow"))
    assert "9.00 GMACs per video (10 views of 0.900)" in tip(tab)
    tab.move(5, 5)
    assert tip(tab) is None


def test_a_click_keeps_the_tooltip_until_one_beside_it(browser, page):
    tab = browser.open(page)

    tab.click(*point_at(tab, "slow"))
    tab.move(5, 5)
    assert tip(tab).startswith("slow teacher")
    tab.click(5, 5)
    assert tip(tab) is None


def test_the_tooltip_comes_with_the_keyboard(browser, page):
    tab = browser.open(page)
    tab.value("document.querySelector('.legend button:last-of-type').focus()")

    tab.key("Tab", 9)
    assert tip(tab).startswith("flat net no temporal")
    described = tab.value("document.activeElement.getAttribute('aria-describedby')")
    assert described == "tip"
    tab.key("ArrowRight", 39)
    assert tip(tab).startswith("shift net control")
    tab.key("ArrowLeft", 37)
    tab.key("ArrowLeft", 37)
    assert tip(tab).startswith("slow teacher"), "around the end"
    tab.key("Escape", 27)
    assert tip(tab) is None


def test_each_axis_has_its_own_front(browser, page, results):
    tab = browser.open(page)
    offered = tab.value("[...document.getElementById('axis-x').options].map(o => o.text)")
    assert offered == [
        "multiply-adds per video", "multiply-adds per view", "parameters",
        f"latency, {CPU}", f"latency, {GPU}", f"throughput, {CPU}", f"throughput, {GPU}",
    ]  # fmt: skip
    costs = {
        "multiply-adds per video": lambda r: r.gmacs_per_video,
        "parameters": lambda r: r.params_m,
        f"latency, {CPU}": lambda r: r.latency_ms.p50,
        f"latency, {GPU}": lambda r: r.latency_ms.p50,
        f"throughput, {GPU}": lambda r: -r.throughput_clips_s,
    }
    for text, cost in costs.items():
        shown = [r for r in results if text.startswith("multiply") or text == "parameters"
                 or str(r.setting) in text]  # fmt: skip
        expected = pareto_front([(cost(r), r.top1_pct) for r in shown])
        choose(tab, "axis-x", text)
        assert {name.split(": ")[-1] + str(name.count(":")) for name in on_front(tab)} == {
            name.split(": ")[-1] + str(name.count(":"))
            for name in (point_name(shown[index]) for index in expected)
        }, text
        if "Card" in text:
            assert set(names(tab)) == {"student: shift net", "slow"}
            below = tab.value("document.querySelector('.below').textContent")
            assert "Not measured on this axis: 2 of 4 networks." in below
            assert tab.value("document.querySelector('.plot').textContent").count(GPU) == 1
    tab.move(*point_at(tab, "slow"))
    assert f"4000 on {GPU}" in tip(tab).replace("\n", " ")
    assert tab.complaints() == []


def point_name(result: BenchmarkResult) -> str:
    return f"{result.role}: {result.model}" if result.model == "shift net" else result.model


def test_a_linear_scale_and_top_5(browser, page):
    tab = browser.open(page)

    def places() -> dict[str, tuple[float, float]]:
        return {name: point_at(tab, name) for name in names(tab)}

    logarithmic = places()
    choose(tab, "scale", "linear")
    linear = places()

    # 0.1, 0.12 and 9 GMACs: evenly, two of them are all but in one place.
    axis_px = linear["slow"][0] - linear["flat net"][0]
    step_px = linear["student: shift net"][0] - linear["flat net"][0]
    assert step_px / axis_px == pytest.approx(0.02 / 8.9, abs=0.003)
    assert logarithmic["student: shift net"][0] - logarithmic["flat net"][0] > 10 * step_px
    assert "(log scale)" not in tab.value("document.querySelector('.plot').textContent")
    assert on_front(tab) == {"flat net", "student: shift net", "slow"}
    choose(tab, "axis-y", "top-5")
    assert on_front(tab) == {"flat net"}, "the cheapest has the best top-5"
    assert "chance" not in tab.value("document.querySelector('.plot').textContent")


def test_heights_are_accuracies(browser, page):
    tab = browser.open(page)
    spots = {name: point_at(tab, name)[1] for name in names(tab)}
    scale = (spots["flat net"] - spots["slow"]) / (97 - 12)
    middle = spots["slow"] + scale * (97 - 93)
    assert spots["student: shift net"] == pytest.approx(middle, abs=1.5)
    whisker = tab.value("document.querySelectorAll('.whisker')[3].getBBox().height")
    assert whisker == pytest.approx(scale * (98.5 - 94.0), rel=0.02)


def test_the_legend_switches_roles(browser, page):
    tab = browser.open(page)
    position = ["teacher", "control", "student", "no temporal"].index("student")

    tab.click(*centre(tab, ".legend button", position))
    pressed = "document.querySelectorAll('.legend button')[2].getAttribute('aria-pressed')"
    assert tab.value(pressed) == "false"
    assert on_front(tab) == {"flat net", "control: shift net", "slow"}, "the front moves down"
    for other in (0, 1, 3):
        tab.click(*centre(tab, ".legend button", other))
    assert names(tab) == []
    assert "Nothing to show" in tab.value("document.querySelector('.plot').textContent")
    tab.click(*centre(tab, ".legend button", position))
    assert names(tab) == ["student: shift net"]
    assert tab.complaints() == []


@pytest.mark.parametrize("size", [(1200, 800), (360, 740)])
def test_everything_has_its_place_at_any_width(browser, page, size):
    tab = browser.open(page, size=size)
    assert tab.value("document.documentElement.scrollWidth") <= size[0]
    tab.value("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    for name in names(tab):
        tab.move(*point_at(tab, name))
        left, right = tab.value(
            "(() => { const r = document.getElementById('tip').getBoundingClientRect();"
            " return [r.left, r.right] })()"
        )
        assert 0 <= left < right <= size[0], name
    boxes = tab.value(
        "[...document.querySelectorAll('.plot .name')].map(n => { const r = n.getBBox();"
        " return [r.x, r.y, r.x + r.width, r.y + r.height] })"
    )
    assert boxes
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        for other in boxes[:index]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, "names lie over one another"


def test_a_new_width_draws_anew(browser, page):
    tab = browser.open(page)
    tab.call("Emulation.setDeviceMetricsOverride", width=500, height=700, deviceScaleFactor=1,
             mobile=False)  # fmt: skip
    tab.settle()
    view = tab.value("document.querySelector('.plot').getAttribute('viewBox')")
    assert view.split()[2] == str(tab.value("document.getElementById('chart').clientWidth"))


def test_dark_paper_has_light_marks_and_print_has_white_paper(browser, page):
    colour = "getComputedStyle(document.querySelectorAll('.point .mark')[3]).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = browser.open(page), browser.open(page, dark=True)

    assert (light.value(colour), light.value(paper)) == ("rgb(59, 91, 219)", "rgb(255, 255, 255)")
    assert (dark.value(colour), dark.value(paper)) == ("rgb(145, 167, 255)", "rgb(22, 26, 31)")
    dark.media("print")
    assert (dark.value(colour), dark.value(paper)) == ("rgb(59, 91, 219)", "rgb(255, 255, 255)")
    assert dark.value("getComputedStyle(document.querySelector('.controls')).display") == "none"
    pdf = dark.call("Page.printToPDF")["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF-")


def test_without_scripts_the_picture_is_there(browser, page):
    tab = browser.open(page, scripts=False)
    assert tab.value("document.querySelector('#picture img').naturalWidth") > 500
    assert tab.value("getComputedStyle(document.getElementById('picture')).display") == "block"
    assert tab.value("getComputedStyle(document.getElementById('chart')).display") == "none"


EVIL = "</script><script>document.title='owned'</script><img src=http://x.test/a onerror=alert(1)>"


def test_a_name_is_a_name_and_never_runs(browser, make_result, tmp_path):
    changes = {"protocol": EVIL, "command": EVIL + "\u2028'\"`${1}"}
    results = [
        make_result(EVIL, EVIL, device=f"cpu: {EVIL}", **changes),
        make_result("net", gmacs_per_view=9.0),
    ]
    page = write_report(results, tmp_path, title=EVIL, notes=[EVIL]).html

    tab = browser.open(page)
    tab.move(*point_at(tab, EVIL.partition(";")[0]))

    assert tip(tab).count(EVIL) == 4, "model, role, protocol and command"
    assert tab.value("document.title") == EVIL
    assert tab.value("document.scripts.length") == 2
    assert tab.value("document.querySelectorAll('main img').length") == 1, "the picture alone"
    assert tab.complaints() == []
    addresses = [url for url in tab.requests() if not url.startswith("data:")]
    assert addresses == [page.resolve().as_uri()]


def test_a_script_that_is_not_ours_is_refused(browser, page, tmp_path):
    """What the policy is for: even if markup did get in, it would not run and fetch nothing."""
    text = page.read_text(encoding="utf-8")
    evil = (
        "<script>document.title = 'owned'</script><img src='http://x.test/a.png'>"
        "<img src=x onerror=\"document.title = 'owned'\">"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<h1>", evil + "<h1>"), encoding="utf-8")

    tab = browser.open(broken)

    assert tab.value("document.title") == "Study"
    assert names(tab), "ours still runs"
    assert len(tab.complaints()) >= 3
    assert "Content Security Policy" in "".join(tab.complaints())


def test_the_policy_names_the_script_by_its_digest(page):
    text = page.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_without_an_accuracy_there_is_no_chart_and_no_script(browser, make_result, tmp_path):
    bare = make_result(top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None)
    tab = browser.open(write_report([bare], tmp_path, title="t").html)
    assert tab.value("document.scripts.length") == 0
    assert tab.value("getComputedStyle(document.getElementById('picture')).display") == "block"


def test_under_ci_a_missing_browser_fails_instead_of_skipping(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="under CI these tests may not be skipped"):
        browser_path()
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="`make browser` as root installs Debian's"):
        browser_path()

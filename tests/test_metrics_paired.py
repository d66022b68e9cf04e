"""Two networks on the same videos: counted, enumerated, and simulated another way."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from videokd.metrics import paired_test
from videokd.metrics.bootstrap import Side, spread, statistic, units_of_groups, units_of_videos


def two_models(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return np.array(a), np.array(b)


@pytest.mark.parametrize(("only_a", "only_b"), [(8, 2), (2, 8), (5, 5), (7, 0), (0, 1)])
def test_mcnemars_test_counts_coin_tosses(only_a, only_b):
    tossed = only_a + only_b
    tail = sum(math.comb(tossed, k) for k in range(min(only_a, only_b) + 1)) / 2**tossed

    result = paired_test(*two_models(50, only_a, only_b, 20))

    assert result.mcnemar_p == pytest.approx(min(1.0, 2 * tail))
    assert (result.num_only_a, result.num_only_b) == (only_a, only_b)
    assert result.num_videos == 70 + tossed
    assert result.difference_pct == pytest.approx(100 * (only_a - only_b) / (70 + tossed))


def test_models_that_agree_everywhere_do_not_differ():
    result = paired_test(*two_models(50, 0, 0, 20))

    assert result.mcnemar_p == 1
    assert result.difference_pct == 0
    assert result.interval_pct == (0, 0)


def test_paired_interval_by_drawing_videos():
    a, b = two_models(500, 90, 40, 170)
    generator = np.random.default_rng(5)
    drawn = generator.integers(0, len(a), (4000, len(a)))
    differences = 100 * (a[drawn].mean(axis=1) - b[drawn].mean(axis=1))

    result = paired_test(a, b)

    low, high = np.percentile(differences, [2.5, 97.5])
    assert result.interval_pct == pytest.approx((low, high), abs=0.3)
    assert result.interval_pct == paired_test(a, b).interval_pct


def test_paired_interval_over_people():
    # a is ahead by ten videos of one person only: without that person there is no difference.
    a, b = two_models(90, 10, 0, 0)
    people = [f"person {i // 10}" for i in range(100)]

    result = paired_test(a, b, groups=people)

    assert result.difference_pct == 10
    # 0.86 and 99.14 % of binomial(10, 1/10), in tens; ten people are few, see `spread`.
    assert result.interval_pct == pytest.approx((0, 40))
    assert result.verdict == "noise"
    assert paired_test(a, b).interval_pct[0] > 4


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        (np.ones(3, bool), np.ones(4, bool), None, r"not bool \[3\] and bool \[4\]"),
        (np.ones(0, bool), np.ones(0, bool), None, "M > 0"),
        (np.ones(1, bool), np.ones(1, bool), None, "at least two videos"),
        (np.ones((2, 3, 4), bool), np.ones(4, bool), None, r"\[runs, M\]"),
        (np.ones((0, 3), bool), np.ones(3, bool), None, "M > 0"),
        (np.ones(3, bool), np.ones(3), None, "and float64"),
        (np.ones(3, bool), np.ones(3, bool), ["a"] * 3, "two groups"),
        (np.ones(3, bool), np.ones(3, bool), ["a"] * 2, "2 groups for 3 videos"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(a, b, groups, message):
    with pytest.raises(ValueError, match=message):
        paired_test(a, b, groups=groups)


def test_a_textbook_table():
    """The approval ratings in Agresti's book (794, 150, 86, 570), by the formulas for many."""
    result = paired_test(*two_models(794, 150, 86, 570))

    assert result.mcnemar_p == pytest.approx(stats.binomtest(86, 236).pvalue, rel=1e-12)
    z = (150 - 86) / math.sqrt(150 + 86)
    assert result.mcnemar_p == pytest.approx(2 * stats.norm.sf(z), rel=0.25), (
        "the large-sample test"
    )
    assert result.difference_pct == pytest.approx(4.0)
    half = 196 * math.sqrt((150 + 86) - 64**2 / 1600) / 1600
    assert result.interval_pct == pytest.approx((4 - half, 4 + half), abs=0.1)
    assert result.verdict == "gain"
    assert result.text().endswith("]: a real gain")


@given(only_a=st.integers(0, 9), only_b=st.integers(0, 9))
def test_mcnemar_by_tossing_every_coin(only_a, only_b):
    tosses = only_a + only_b
    as_uneven = sum(
        abs(2 * sum(heads) - tosses) >= abs(only_a - only_b)
        for heads in itertools.product((0, 1), repeat=min(tosses, 12))
    )
    result = paired_test(*two_models(3, only_a, only_b, 3))
    if tosses <= 12:
        assert result.mcnemar_p == pytest.approx(as_uneven / 2**tosses)


def random_runs(seed: int, runs_a: int, runs_b: int, num_videos: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    ease = generator.random(num_videos)
    return (
        generator.random((runs_a, num_videos)) < ease,
        generator.random((runs_b, num_videos)) < 0.8 * ease,
        generator.integers(0, 5, num_videos).astype(str),
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    runs_a=st.integers(1, 3),
    runs_b=st.integers(1, 3),
    num_videos=st.integers(30, 60),
    grouped=st.booleans(),
)
def test_the_other_way_round_is_the_negative_to_the_last_bit(
    seed, runs_a, runs_b, num_videos, grouped
):
    a, b, people = random_runs(seed, runs_a, runs_b, num_videos)
    groups = people.tolist() if grouped else None

    one, other = paired_test(a, b, groups=groups), paired_test(b, a, groups=groups)

    low, high = one.interval_pct
    assert other.difference_pct == -one.difference_pct
    assert other.interval_pct == (-high, -low)
    assert low <= high
    assert (other.mcnemar_p, other.detectable_pct) == (one.mcnemar_p, one.detectable_pct)
    assert (other.num_only_a, other.num_only_b) == (one.num_only_b, one.num_only_a)
    assert {one.verdict, other.verdict} in ({"noise"}, {"gain", "loss"}, {"too few groups"})


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_videos_does_not_matter(seed):
    a, b, _ = random_runs(seed, 1, 1, 40)
    order = np.random.default_rng(seed).permutation(40)
    one_video = 2.6

    one, other = paired_test(a, b), paired_test(a[:, order], b[:, order])
    apart = paired_test(a, b, groups=[str(n) for n in range(40)])

    for again in (other, apart):  # drawn anew at most: one video a group is no group
        assert again.interval_pct == pytest.approx(one.interval_pct, abs=one_video)
        assert again.standard_error_pct == pytest.approx(one.standard_error_pct)
        assert again.detectable_pct == pytest.approx(one.detectable_pct)


def test_two_equal_runs_are_equal():
    a, _, people = random_runs(1, 1, 1, 60)
    for groups in (None, people.tolist()):
        result = paired_test(a, a, groups=groups)
        assert (result.difference_pct, result.interval_pct, result.mcnemar_p) == (0, (0, 0), 1)
        assert result.detectable_pct == 10, "six of 60 videos: five, all one way, are p = 0.0625"
        assert result.verdict in ("noise", "too few groups")
    assert "[0.0, 0.0]: inside the noise" in paired_test(a, a).text()


@pytest.mark.parametrize(("one_way", "verdict"), [(5, "noise"), (6, "gain")])
def test_six_videos_one_way_are_the_fewest_that_count(one_way, verdict):
    result = paired_test(*two_models(50, one_way, 0, 20))
    assert result.interval_pct[0] > 0, "the bootstrap alone would call it with fewer"
    assert result.verdict == verdict


@pytest.mark.parametrize(("num_people", "verdict"), [(5, "too few groups"), (6, "gain")])
def test_six_groups_are_the_fewest_that_count(num_people, verdict):
    a, b = np.ones(60, bool), np.arange(60) % 3 > 0
    people = [f"person {n * num_people // 60}" for n in range(60)]
    result = paired_test(a, b, groups=people)
    assert result.verdict == verdict
    if verdict != "gain":
        assert result.text().endswith("5 groups are too few to tell, at least 6 are needed")


def test_every_draw_of_three_people_is_counted():
    """27 equally likely draws of three people of 2, 3 and 4 videos."""
    sizes, gains = [2, 3, 4], [1, 0, 3]
    values = np.concatenate([np.arange(n) < gain for n, gain in zip(sizes, gains, strict=True)])
    groups = [name for name, n in zip("abc", sizes, strict=True) for _ in range(n)]
    units = units_of_groups(values[None], groups)
    draws = [
        sum(gains[i] for i in drawn) / sum(sizes[i] for i in drawn)
        for drawn in itertools.product(range(3), repeat=3)
    ]

    found = spread(units, (Side(1, 1),), seed=0)

    assert statistic(units, (Side(1, 1),)) == pytest.approx(4 / 9)
    # sqrt(3 / 2) x 4.30 standard deviations, of three people: the ends of all draws.
    assert found.interval == pytest.approx((min(draws), max(draws)))
    # The ratio's linearised variance, by hand.
    rest = [gain - 4 / 9 * n for gain, n in zip(gains, sizes, strict=True)]
    variance = 3 / 2 * sum(r**2 for r in rest) / 81
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    assert found.degrees == 2


def test_runs_are_drawn_beside_videos():
    """Runs that differ a lot on videos that are all alike: only the runs' noise is there."""
    a = np.repeat(np.array([[True], [False], [True], [False]]), 100, axis=1)
    b = np.zeros((4, 100), bool)

    result = paired_test(a, b)

    assert result.difference_pct == 50
    assert (result.num_only_a, result.mcnemar_p) == (None, None)
    # The mean of four runs: 1, 0, 1, 0 have a variance of 1 / 3; t has three degrees of freedom.
    assert result.standard_error_pct == pytest.approx(100 * math.sqrt(1 / 3 / 4))
    factor = stats.t.ppf(0.975, 3) + stats.t.ppf(0.8, 3)
    assert result.detectable_pct == pytest.approx(min(100, factor * result.standard_error_pct))
    assert result.verdict == "noise", "the same difference with one run each would be sure"
    assert paired_test(a[:1], b[:1]).verdict == "gain"


def test_the_standard_error_of_videos_is_that_of_a_paired_mean():
    a, b, _ = random_runs(3, 1, 1, 200)
    difference = a[0].astype(float) - b[0]

    result = paired_test(a, b)

    expected = 100 * difference.std(ddof=1) / math.sqrt(200)
    assert result.standard_error_pct == pytest.approx(expected)
    factor = stats.t.ppf(0.975, 199) + stats.t.ppf(0.8, 199)
    assert result.detectable_pct == pytest.approx(factor * expected + 0.5), "and one of 200 videos"
    assert factor == pytest.approx(1.96 + 0.84, abs=0.02)


def test_the_comparison_as_json():
    read = json.loads(json.dumps(paired_test(*two_models(50, 20, 5, 25)).to_dict()))
    assert read["verdict"] == "gain"
    assert read["text"].startswith("+15.0 points [")
    assert (read["unit"], read["num_units"], read["num_only_a"], read["num_only_b"]) == (
        "video", 100, 20, 5,
    )  # fmt: skip
    assert read["interval_pct"][0] < 15 < read["interval_pct"][1]


def test_equal_videos_are_drawn_as_one_kind():
    values = np.array([[1, 1, 0, 1], [0, 0, 1, 0]], dtype=bool)
    units = units_of_videos(values)
    assert (units.num_units, len(units.counts)) == (4, 2)
    assert units.run_means.tolist() == [0.75, 0.25]


def simulated(generator, *, people: int, each: int, runs: int, run_noise: float):
    """Correct videos of two ways to train: people, runs and videos all differ."""
    ease = generator.normal(0, 0.8, people)[:, None] + generator.normal(0, 1.2, (people, each))
    gains = 0.5 + generator.normal(0, 0.5, people)[:, None]

    def side(shift):
        run = generator.normal(0, run_noise, runs)[:, None, None]
        logits = ease + shift + run + generator.logistic(0, 0.7, (runs, people, each))
        return (logits > 0).reshape(runs, -1)

    return side(gains), side(0.0), [str(n) for n in range(people) for _ in range(each)]


@pytest.mark.slow
@pytest.mark.parametrize(("people", "each"), [(8, 20), (40, 6)])
@pytest.mark.parametrize(("runs", "run_noise"), [(1, 0.0), (3, 0.25)])
def test_intervals_hold_the_truth_as_often_as_they_say(people, each, runs, run_noise):
    """Over fresh people, videos and runs; with one run a side, runs that do not differ."""
    generator = np.random.default_rng(0)
    many = [simulated(generator, people=400, each=40, runs=40, run_noise=run_noise)
            for _ in range(10)]  # fmt: skip
    truth = float(np.mean([100 * (a.mean() - b.mean()) for a, b, _ in many]))
    held = 0
    for _ in range(300):
        drawn = simulated(generator, people=people, each=each, runs=runs, run_noise=run_noise)
        low, high = paired_test(drawn[0], drawn[1], groups=drawn[2]).interval_pct
        held += low <= truth <= high
    assert 0.92 <= held / 300 <= 0.995, "95 % and the noise of 300 tries"


@pytest.mark.slow
def test_the_detectable_difference_is_found_in_four_of_five_cases():
    generator = np.random.default_rng(0)
    shares = np.array([0.12, 0.05])  # only a right, only b right
    deviation = math.sqrt(shares.sum() - (shares[0] - shares[1]) ** 2)
    gain = shares[0] - shares[1]
    # As many videos as make this gain the detectable one: 2.8 standard errors and a video.
    num_videos = next(n for n in range(50, 1000) if 2.8 * deviation / n**0.5 + 1 / n < gain)
    found, said = 0, []
    for _ in range(400):
        counts = generator.multinomial(num_videos, [*shares, 1 - shares.sum()])
        result = paired_test(*two_models(int(counts[2]), int(counts[0]), int(counts[1]), 0))
        found += result.verdict == "gain"
        said.append(result.detectable_pct)
    assert np.mean(said) == pytest.approx(100 * gain, rel=0.02)
    assert found / 400 == pytest.approx(0.8, abs=0.06)


@pytest.mark.slow
def test_equal_networks_are_seldom_called_different():
    generator = np.random.default_rng(0)
    called = 0
    for _ in range(500):
        counts = generator.multinomial(240, [0.06, 0.06, 0.88])
        result = paired_test(*two_models(int(counts[2]), int(counts[0]), int(counts[1]), 0))
        called += result.verdict != "noise"
    assert called / 500 <= 0.06

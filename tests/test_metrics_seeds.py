"""Several seeds a side: enumerated, drawn in plain loops, and by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from videokd.metrics import holm, seed_test, smallest_detectable_pct
from videokd.metrics.bootstrap import NUM_RESAMPLES
from videokd.metrics.seeds import nested_draws


def drawn_correct(seed: int, *, seeds: int = 3, videos: int = 60, gap: float = 0.1) -> np.ndarray:
    """bool [2, S, M]: two ways to train whose right answers go together."""
    generator = np.random.default_rng(seed)
    hard = generator.random(videos)
    noise = 0.2 * generator.standard_normal((2, seeds, videos))
    return hard + noise < np.array([0.6 + gap, 0.6])[:, None, None]


def people(videos: int, num: int) -> list[str]:
    return [f"person {index % num}" for index in range(videos)]


def test_every_nested_draw_is_counted():
    """Two people (one of two videos, one of one), two seeds: all 4 * 4 * ... draws by hand."""
    differences = np.array([[1, 0, -1], [1, 1, 0]])
    videos_of = {"x": [0, 1], "y": [2]}
    expected: dict[float, float] = {}
    for drawn in itertools.product("xy", repeat=2):
        for seeds in itertools.product(range(2), repeat=2):
            places = [videos_of[name] for name in drawn for _ in videos_of[name]]
            for videos in itertools.product(*places):
                mean = round(float(differences[np.ix_(seeds, videos)].mean()), 9)
                share = 1 / 16 / math.prod(map(len, places))
                expected[mean] = expected.get(mean, 0.0) + share
    assert sum(expected.values()) == pytest.approx(1)

    drawn = nested_draws(differences, ["x", "x", "y"], seed=0).round(9)

    assert set(drawn) == set(expected)
    for mean, share in expected.items():
        deviation = math.sqrt(share * (1 - share) / NUM_RESAMPLES)
        assert (drawn == mean).mean() == pytest.approx(share, abs=4.5 * deviation)


@pytest.mark.parametrize("num_people", [None, 7])
def test_draws_in_plain_loops(num_people):
    a, b = drawn_correct(1, seeds=4, videos=50)
    differences = a.astype(int) - b
    groups = None if num_people is None else people(50, num_people)
    names = np.zeros(50, int) if groups is None else np.array(groups)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    generator = np.random.default_rng(9)
    by_loop = []
    for _ in range(4000):
        chosen = [members[g] for g in generator.integers(0, len(members), len(members))]
        seeds = generator.integers(0, 4, 4)
        videos = np.concatenate([generator.choice(ids, len(ids)) for ids in chosen])
        by_loop.append(differences[np.ix_(seeds, videos)].mean())

    drawn = nested_draws(differences, groups, seed=0)

    assert drawn.mean() == pytest.approx(np.mean(by_loop), abs=0.006)
    assert drawn.std() == pytest.approx(np.std(by_loop), rel=0.05)
    for share in (0.025, 0.5, 0.975):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(by_loop, share), abs=0.012)


def test_interval_and_p_in_another_way():
    """The draws' percentiles, moved outwards: ends and p from their definition."""
    a, b = drawn_correct(2, seeds=5, videos=300, gap=0.05)
    differences = a.astype(int) - b
    result = seed_test(a, b, seed=4)

    per_video, per_seed = differences.mean(axis=0), differences.mean(axis=1)
    of_videos, of_seeds = per_video.var(ddof=1) / 300, per_seed.var(ddof=1) / 5
    error = math.sqrt(of_videos + of_seeds)
    degrees = error**4 / (of_videos**2 / 299 + of_seeds**2 / 4)
    assert result.standard_error_pct == pytest.approx(100 * error)
    drawn = nested_draws(differences, None, seed=4)
    ratio = error / drawn.std()
    level = stats.norm.cdf(-stats.t.ppf(0.975, degrees) * ratio)
    assert result.interval_pct == pytest.approx(
        tuple(100 * np.quantile(drawn, [level, 1 - level])), abs=0.02
    )
    share = np.mean(drawn <= 1e-12)
    assert result.p_not_better == pytest.approx(stats.t.sf(-stats.norm.ppf(share) / ratio, degrees))
    assert result.p_value == pytest.approx(2 * result.p_not_better)
    assert result.detectable_pct == pytest.approx(
        100 * error * (stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees))
    )
    assert result.detectable_at(0.05) == pytest.approx(result.detectable_pct)
    assert result.detectable_at(0.05 / 16) == pytest.approx(
        100 * error * (stats.t.ppf(1 - 0.05 / 32, degrees) + stats.t.ppf(0.8, degrees))
    )
    assert result.difference_pct == pytest.approx(100 * differences.mean())
    assert result.seed_std_pct == pytest.approx(100 * per_seed.std(ddof=1))
    assert result.discordant_pct == pytest.approx(100 * (differences != 0).mean())
    assert result.seed_differences_pct == pytest.approx(tuple(100 * per_seed))


def test_seeds_that_alone_differ_are_a_t_test():
    """All videos move together: what is left are three numbers, and Student's test of them."""
    a, b = np.zeros((2, 3, 40), dtype=bool)
    a[[0, 2]] = True

    result = seed_test(a, b)

    expected = stats.ttest_1samp([1, 0, 1], 0)
    low, high = expected.confidence_interval(0.95)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval_pct == pytest.approx((100 * low, 100 * high))
    assert result.verdict == "noise"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), grouped=st.booleans(), seeds=st.integers(1, 4))
def test_the_other_way_round_is_the_negative_to_the_last_bit(seed, grouped, seeds):
    a, b = drawn_correct(seed, seeds=seeds, videos=40)
    groups = people(40, 7) if grouped else None

    one, other = seed_test(a, b, groups=groups), seed_test(b, a, groups=groups)

    assert one.difference_pct == -other.difference_pct
    assert one.interval_pct == (-other.interval_pct[1], -other.interval_pct[0])
    assert one.p_value == other.p_value
    assert one.p_not_better + other.p_not_better >= 1 - 1e-9, "draws of exactly zero are in both"
    assert {one.verdict, other.verdict} in ({"gain", "loss"}, {"noise"})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gap=st.floats(-0.2, 0.2),
    seeds=st.integers(1, 6),
    grouped=st.booleans(),
)
@example(seed=150, gap=-0.13031034458514235, seeds=1, grouped=True)  # five groups of nine differ
def test_p_is_below_its_level_where_zero_is_outside(seed, gap, seeds, grouped):
    a, b = drawn_correct(seed, seeds=seeds, videos=80, gap=gap)
    groups = people(80, 9) if grouped else [str(video) for video in range(80)]
    result = seed_test(a, b, groups=groups if grouped else None)

    low, high = result.interval_pct
    gains = (a.astype(int) - b).sum(axis=0)
    of_units = Counter(dict.fromkeys(groups, 0))
    for name, gain in zip(groups, gains.tolist(), strict=True):
        of_units[name] += gain
    num_informative = sum(gain != 0 for gain in of_units.values())
    if num_informative < 6:  # too few to reach the level, whatever the interval says
        assert result.p_value >= min(1.0, 2 * 0.5**num_informative)
        return
    assert (result.p_value < 0.05) == (not low <= 0 <= high)
    assert (result.p_not_better < 0.025) == (low > 0)
    assert low <= result.difference_pct <= high
    assert 0 < result.p_value <= 1


def test_the_same_videos_in_another_order_are_the_same():
    a, b = drawn_correct(5)
    groups = people(60, 8)
    order = np.random.default_rng(0).permutation(60)

    one = seed_test(a, b, groups=groups)
    other = seed_test(a[:, order], b[:, order], groups=[groups[i] for i in order])

    assert one == other
    assert one == seed_test(a, b, groups=groups), "and twice the same"
    assert one != seed_test(a, b, groups=groups, seed=1)


def test_what_a_seed_does_to_both_falls_out():
    """Seeds that move both sides alike cost nothing: the difference is the same in each."""
    generator = np.random.default_rng(0)
    hard = generator.random(400)
    level = np.array([0.2, 0.4, 0.6, 0.8, 0.5])[:, None]
    a, b = hard < level + 0.05, hard < level

    paired = seed_test(a, b)
    crossed = seed_test(a, b[::-1])

    assert np.std(paired.seeds_a_pct) > 15
    assert paired.seed_std_pct < 2 < crossed.seed_std_pct
    assert paired.verdict == "gain"
    assert crossed.verdict == "noise"


@pytest.mark.parametrize(("num_videos", "verdict"), [(5, "noise"), (6, "gain")])
def test_fewer_than_six_videos_one_way_are_noise(num_videos, verdict):
    a, b = np.zeros((2, 3, 30), dtype=bool)
    a[:, :num_videos] = True

    result = seed_test(a, b)

    assert result.verdict == verdict
    everywhere = seed_test(a[:, :num_videos], b[:, :num_videos])
    assert everywhere.p_value == 2.0 ** (1 - num_videos)
    assert everywhere.interval_pct == (100, 100)
    assert everywhere.verdict == verdict


def test_eight_people_may_be_surer_than_eight_coins():
    """So that a correction for twenty comparisons leaves something to find."""
    a, b = drawn_correct(1, seeds=5, videos=320, gap=0.2)
    result = seed_test(a, b, groups=people(320, 8))
    assert result.p_value < 2.0**-7
    assert result.verdict_at(20 * result.p_value) == "gain"


def of_seeds(gains_pct, *, videos=3120):
    """b right on a third of the videos, a on these many points more, the same videos first."""
    a, b = (np.zeros((len(gains_pct), videos), dtype=bool) for _ in "ab")
    b[:, : videos // 3] = True
    for row, gain in zip(a, gains_pct, strict=True):
        row[: videos // 3 + round(videos * gain / 100)] = True
    return a, b


def test_a_gain_that_no_draw_loses_is_told_by_the_t_distribution():
    """Counted draws end at one in ten thousand: a correction for sixteen would leave nothing."""
    spread = np.array([-1.8, 0.4, 2.1, -1.9, 1.2])
    gains = [5, 10, 20, 30, 40]
    found = [seed_test(*of_seeds(gain + spread)) for gain in gains]

    p_values = [one.p_value for one in found]
    assert p_values == sorted(p_values, reverse=True), "the more, the surer"
    assert all(one.verdict_at(16 * one.p_value) == "gain" for one in found[1:])
    largest = found[-1]
    away = largest.difference_pct / largest.standard_error_pct
    expected = 2 * stats.t.sf(away, largest.degrees_of_freedom)
    assert largest.p_value == pytest.approx(expected)
    assert largest.p_value < 1e-3


def test_equal_ways_to_train_do_not_differ():
    a, _ = drawn_correct(0)
    result = seed_test(a, a)
    assert (result.p_value, result.p_not_better, result.interval_pct) == (1, 1, (0, 0))
    assert (result.verdict, result.seed_std_pct, result.discordant_pct) == ("noise", 0, 0)


def test_five_people_are_too_few():
    a, b = drawn_correct(0, gap=0.5)
    result = seed_test(a, b, groups=people(60, 5))
    assert result.verdict == "too few groups"
    assert "5 groups are too few to tell, at least 6" in result.text()


def test_one_seed_is_a_row():
    a, b = drawn_correct(3, seeds=1)
    result = seed_test(a[0], b[0])
    assert result == seed_test(a, b)
    assert (result.num_seeds, result.seed_std_pct) == (1, None)
    assert " over 1 seed: " in result.text()


def test_as_json():
    a, b = drawn_correct(3, gap=0.3)
    result = seed_test(a, b)
    document = json.loads(json.dumps(result.to_dict()))
    assert document["verdict"] == "gain"
    assert document["text"] == result.text()
    assert document["seeds_a_pct"] == pytest.approx((100 * a.mean(axis=1)).tolist())
    assert result.text().endswith("over 3 seeds: a real gain")


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        (np.ones((3, 4), bool), np.ones((2, 4), bool), None, "3 seeds against 2"),
        (np.ones((3, 4), bool), np.ones((3, 5), bool), None, "must be bool"),
        (np.ones((3, 4)), np.ones((3, 4)), None, "must be bool"),
        (np.ones((3, 1), bool), np.ones((3, 1), bool), None, "at least two videos"),
        (np.ones((3, 4), bool), np.ones((3, 4), bool), ["a"] * 4, "two groups"),
        (np.ones((3, 4), bool), np.ones((3, 4), bool), ["a", "b"], "2 groups for 4 videos"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, groups, message):
    with pytest.raises(ValueError, match=message):
        seed_test(a, b, groups=groups)


def test_the_smallest_detectable_difference_by_hand():
    found = smallest_detectable_pct(
        num_seeds=5, num_videos=3000, seed_std_pct=1.0, discordant_pct=10.0
    )
    of_seeds, of_videos = 0.01**2 / 5, 0.1 / 3000
    degrees = (of_seeds + of_videos) ** 2 / (of_seeds**2 / 4 + of_videos**2 / 2999)
    factor = stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees)
    assert found == pytest.approx(100 * factor * math.sqrt(of_seeds + of_videos))
    # Very many seeds and videos: the normal quantiles, 1.960 + 0.842.
    many = smallest_detectable_pct(
        num_seeds=10**7, num_videos=10**7, seed_std_pct=10.0, discordant_pct=0.0
    )
    assert many == pytest.approx(2.8016 * 10 / math.sqrt(10**7), rel=1e-4)
    nothing = smallest_detectable_pct(
        num_seeds=2, num_videos=600, seed_std_pct=0.0, discordant_pct=0.0
    )
    assert nothing == pytest.approx(1.0), "six videos' worth"


# From six seeds on: with fewer, videos that add no noise leave the few degrees of the seeds alone.
@given(seeds=st.integers(6, 50), videos=st.integers(50, 10_000))
def test_more_seeds_and_more_videos_show_smaller_differences(seeds, videos):
    settings = {"seed_std_pct": 1.5, "discordant_pct": 20.0}
    found = smallest_detectable_pct(num_seeds=seeds, num_videos=videos, **settings)
    assert smallest_detectable_pct(num_seeds=seeds + 1, num_videos=videos, **settings) < found
    assert smallest_detectable_pct(num_seeds=seeds, num_videos=2 * videos, **settings) < found


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="num_seeds 1 and num_videos 9 must be at least 2"):
        smallest_detectable_pct(num_seeds=1, num_videos=9, seed_std_pct=1, discordant_pct=1)
    with pytest.raises(ValueError, match=r"discordant_pct 101 in \[0, 100\]"):
        smallest_detectable_pct(num_seeds=2, num_videos=9, seed_std_pct=1, discordant_pct=101)


def test_holm_on_four_tests():
    """By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, then 0.04, which may not be below its predecessor."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.3]) == [0.3]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_bonferroni_test(p_values):
    """A hypothesis falls where every set of hypotheses that holds it falls by Bonferroni."""
    everything = range(len(p_values))
    sets = [
        chosen
        for size in range(1, len(p_values) + 1)
        for chosen in itertools.combinations(everything, size)
    ]
    expected = [
        max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if one in s)
        for one in everything
    ]
    assert holm(p_values) == pytest.approx(expected)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_takes_p_values_only(p):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        holm([0.5, p])


def test_the_verdict_by_a_corrected_p():
    a, b = drawn_correct(4, seeds=4, videos=300, gap=0.08)
    result = seed_test(a, b)
    assert 0.001 < result.p_value < 0.05
    assert result.verdict == result.verdict_at(result.p_value) == "gain"
    assert result.verdict_at(holm([result.p_value] * 50)[0]) == "noise"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "num_people", "videos", "of_person", "of_seed"),
    [(3, 8, 20, 0.3, 0.1), (3, 8, 20, 0.0, 0.2), (5, None, 300, 0.0, 0.1), (5, 8, 20, 0.5, 0.05)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    seeds, num_people, videos, of_person, of_seed
):
    """Two ways to train that are equal on average; people and seeds like one or the other more."""
    generator = np.random.default_rng(1)
    num = num_people or 1
    groups = None if num_people is None else [f"p{n}" for n in np.arange(num).repeat(videos)]
    held = 0
    for trial in range(300):
        likes = generator.normal(0, of_person, num).repeat(videos) / 2
        hard = generator.standard_normal(num * videos)
        moved = generator.normal(0, of_seed, (2, seeds, 1))
        noise = generator.normal(0, 0.6, (2, seeds, num * videos))
        a, b = hard + np.stack([likes, -likes])[:, None] + moved + noise > 0
        low, high = seed_test(a, b, groups=groups, seed=trial).interval_pct
        held += low <= 0 <= high
    assert 0.92 <= held / 300 <= 0.99


@pytest.mark.slow
def test_the_planned_difference_is_found_in_four_of_five_cases():
    """Seeds move a difference by 2 points; videos are answered by chance, apart from each other."""
    generator = np.random.default_rng(2)
    seeds, videos = 6, 500
    planned = smallest_detectable_pct(
        num_seeds=seeds, num_videos=videos, seed_std_pct=2.0, discordant_pct=10.0
    )
    found = 0
    for trial in range(300):
        gaps = generator.normal(planned / 100, 0.02, seeds)
        # Each video differs with its own chance: 5 % either way, and the gap on top.
        ways = generator.random(videos)
        differs = np.stack([(ways < 0.05 + gap).astype(int) - (ways > 0.95) for gap in gaps])
        a, b = differs > 0, differs < 0
        found += seed_test(a, b, seed=trial).verdict == "gain"
    assert 0.68 <= found / 300 <= 0.92

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videokd.bench.report.labels import Box, place_labels
from videokd.bench.report.pareto import gmacs_points, latency_points, pareto_front

# Few values, so that ties are many.
points = st.lists(
    st.tuples(st.integers(1, 8).map(float), st.integers(0, 8).map(float)), max_size=25
)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(points)
def test_the_front_is_all_that_no_point_beats(points):
    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    assert pareto_front(points) == expected


@given(points, st.randoms())
def test_the_front_does_not_depend_on_the_order(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = pareto_front([points[i] for i in order])
    assert {order[i] for i in shuffled} == pareto_front(points)


def test_a_known_front():
    #         cheap      beaten     as good, dearer   dear, better   twin of the first
    known = [(1.0, 50.0), (2.0, 40.0), (3.0, 50.0), (4.0, 60.0), (1.0, 50.0)]
    assert pareto_front(known) == {0, 3, 4}
    assert pareto_front([]) == set()


def test_a_network_timed_twice_is_one_point_of_work_and_two_of_latency(make_result):
    results = [make_result(batch=1), make_result(batch=8, p50=50.0)]
    (work,) = gmacs_points(results)
    assert (work.label, work.cost, work.accuracy_pct) == ("net", 0.12, 90.0)
    one, eight = latency_points(results)
    assert (one.label, one.cost) == ("net, batch 1", 10.0)
    assert (eight.label, eight.cost) == ("net, batch 8", 50.0)
    assert one.group != eight.group


def test_a_network_in_two_roles_is_named_with_them(story):
    labels = ["slow", "control: shift net", "student: shift net", "flat net"]
    assert [point.label for point in gmacs_points(story)] == labels
    assert [point.label for point in latency_points(story)] == labels


def test_what_has_no_accuracy_has_no_point(make_result):
    bare = make_result(top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None)
    assert gmacs_points([bare]) == latency_points([bare]) == []


ROOM = Box(0, 0, 1000, 600)


def is_inside(box: Box) -> bool:
    return math.isclose(box.overlap(ROOM), box.area)


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 600)), max_size=6, unique=True))
def test_a_few_labels_never_lie_over_one_another_or_outside(anchors):
    boxes = place_labels(anchors, [(120.0, 14.0)] * len(anchors), inside=ROOM)
    for position, box in enumerate(boxes):
        assert (box.right - box.left, box.top - box.bottom) == pytest.approx((120, 14))
        assert is_inside(box)
        assert not any(box.overlap(other) for other in boxes[:position])


def test_labels_of_one_place_make_way_for_each_other():
    boxes = place_labels([(500.0, 300.0)] * 5, [(150.0, 14.0)] * 5, inside=ROOM)
    assert boxes[0].left == pytest.approx(508)  # the first takes the best place: to the right
    for position, box in enumerate(boxes):
        assert not any(box.overlap(other) for other in boxes[:position])


def test_a_label_keeps_off_obstacles():
    wall = Box(505, 0, 520, 600)
    (box,) = place_labels([(500.0, 300.0)], [(100.0, 14.0)], inside=ROOM, obstacles=[wall])
    assert box.overlap(wall) == 0
    assert box.right <= 500


def test_rectangles():
    box = Box(0, 0, 4, 2)
    assert (box.area, box.grown(1)) == (8, Box(-1, -1, 5, 3))
    assert box.overlap(Box(3, 1, 9, 9)) == 1
    assert box.overlap(Box(4, 0, 5, 2)) == 0

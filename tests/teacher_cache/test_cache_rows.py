"""Rows and logits: what is kept, what comes back, and how far off a part of the logits may be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videokd.errors import UserError
from videokd.teacher_cache.contents import Contents
from videokd.teacher_cache.rows import output_of, rows_of
from videokd.teacher_cache.shards import (
    Chunk,
    Shard,
    draw_digest,
    find_shards,
    open_rows,
    read_draws,
    read_unreadable,
    remove_leftovers,
    whole_chunks,
    write_shard,
)
from videokd.teacher_cache.sparse import filled_logits, top_logits
from videokd.types import Crop, Draw, Mix, ModelOutput, TapOutput, TapShape

CPU = torch.device("cpu")


def draw(video_id: int, *, repeat: int = 0, flip: bool = False) -> Draw:
    return Draw(
        video_id,
        (3, 1, video_id, repeat),
        {"student": np.arange(4)[None], "teacher": np.arange(8)[None]},
        (Crop(0.1, 0.2, 0.5, 0.5),),
        flip=flip,
        mix=Mix(video_id + 1, repeat, 0.3, None),
    )


def output(num_clips: int, num_classes: int = 5) -> ModelOutput:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(num_clips, *shape, generator=generator)

    return ModelOutput(
        logits=random(num_classes) * 5,
        pooled=random(7),
        taps={
            "res.2": TapOutput(random(3, 2, 4, 4), random(2)),
            "res3": TapOutput(random(6, 1, 2, 2), random(1)),
        },
        attention=random(4).softmax(1),
        attention_seconds=random(4),
    )


def contents(**changes: object) -> Contents:
    whole = {
        "num_classes": 5,
        "pooled_dim": 7,
        "attention_steps": 4,
        "taps": {"res.2": TapShape(3, 2, 4, 4), "res3": TapShape(6, 1, 2, 2)},
    }
    return Contents.model_validate(whole | changes)


def test_rows_give_the_output_rounded_to_float16() -> None:
    said, kept = output(3), contents()
    rows = rows_of(said, [draw(5), draw(6), draw(6, repeat=1)], kept)
    assert rows["video_id"].tolist() == [5, 6, 6]
    assert rows["repeat"].tolist() == [0, 0, 1]
    back = output_of(rows[::-1], kept, CPU)
    assert torch.equal(back.logits, said.logits.half().float().flip(0))
    assert torch.equal(back.pooled, said.pooled.half().float().flip(0))
    for name, tap in said.taps.items():
        assert torch.equal(back.taps[name].features, tap.features.half().float().flip(0))
        assert torch.equal(back.taps[name].step_seconds, tap.step_seconds.flip(0))
    assert said.attention is not None
    assert said.attention_seconds is not None
    assert back.attention is not None
    assert back.attention_seconds is not None
    assert torch.equal(back.attention, said.attention.flip(0))
    assert torch.equal(back.attention_seconds, said.attention_seconds.flip(0))


def test_what_is_not_kept_does_not_come_back() -> None:
    kept = contents(pooled_dim=None, attention_steps=None, taps={})
    assert kept.bytes_per_clip == 8 + 8 + 4 + 5 * 2
    back = output_of(rows_of(output(2), [draw(1), draw(2)], kept), kept, CPU)
    assert back.pooled.shape == (2, 0)
    assert back.taps == {}
    assert back.attention is None


@pytest.mark.parametrize("value", [1e5, -1e5, math.inf, math.nan])
def test_what_float16_does_not_hold_is_refused(value: float) -> None:
    said = output(2)
    said.taps["res3"].features[1, 2, 0, 0, 1] = value
    with pytest.raises(UserError, match=r"tap 'res3' of the teacher cannot be kept in float16"):
        rows_of(said, [draw(1), draw(2)], contents())
    said = output(2)
    said.logits[0, 1] = value
    for top_k in (None, 2):
        with pytest.raises(UserError, match=r"the logits of the teacher cannot be kept in float16"):
            rows_of(said, [draw(1), draw(2)], contents(top_k=top_k))


def test_a_digest_tells_draws_apart() -> None:
    assert draw_digest(draw(1)) == draw_digest(Draw.from_json(draw(1).to_json()))
    assert (
        len({draw_digest(d) for d in (draw(1), draw(2), draw(1, repeat=1), draw(1, flip=True))})
        == 4
    )
    assert draw_digest(draw(1)) < 2**64


logits_of_clips = st.integers(2, 12).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-30, 30, width=16), min_size=k, max_size=k), st.integers(1, k)
    )
)


@settings(deadline=None)
@given(logits_of_clips)
def test_kept_classes_keep_their_probability_and_others_share_theirs(
    given_logits: tuple[list[float], int],
) -> None:
    values, top_k = given_logits
    logits = torch.tensor([values], dtype=torch.float64)
    top = top_logits(logits.float(), top_k)
    filled = filled_logits(top, len(values)).double()
    true, mine = logits.softmax(1), filled.softmax(1)
    kept = top.class_ids[0].long()
    torch.testing.assert_close(mine[0, kept], true[0, kept], rtol=1e-4, atol=1e-6)
    assert filled[0].argmax() in (logits[0] == logits[0].max()).nonzero()
    others = sorted(set(range(len(values))) - set(kept.tolist()))
    if others:
        assert filled[0, others].unique().numel() == 1
        expected = true[0, others].sum() / len(others)
        torch.testing.assert_close(mine[0, others[0]], expected, rtol=1e-3, atol=1e-6)
    else:
        assert torch.equal(filled, logits)


@settings(deadline=None)
@given(logits_of_clips, st.floats(1, 20))
def test_softened_targets_are_off_by_no_more_than_what_is_filled(
    given_logits: tuple[list[float], int], temperature: float
) -> None:
    """The bound that `filled_logits` states, by the formulas in float64."""
    values, top_k = given_logits
    logits = torch.tensor([values], dtype=torch.float64)
    top = top_logits(logits.float(), top_k)
    filled = filled_logits(top, len(values)).double()
    others = sorted(set(range(len(values))) - set(top.class_ids[0].tolist()))
    true, mine = ((one / temperature).softmax(1)[0] for one in (logits, filled))
    distance = (true - mine).abs().sum() / 2
    assert float(distance) <= float(mine[others].sum()) + 1e-5
    assert float(mine[others].sum()) >= float(true[others].sum()) - 1e-5


def test_a_confident_teacher_loses_nothing_to_rounding_of_what_is_left() -> None:
    """What is left is kept by itself: as a difference from all it would drown in float16."""
    logits = torch.tensor([[15.003, 2.0, 1.0, 0.5]])
    mine = filled_logits(top_logits(logits, 1), 4).softmax(1)
    expected = logits.softmax(1)[0, 1:].sum()
    torch.testing.assert_close(mine[0, 1:].sum(), expected, rtol=5e-3, atol=0)


def shard_rows(count: int) -> np.ndarray:
    kept = contents(pooled_dim=None, attention_steps=None, taps={})
    return rows_of(output(count), [draw(i) for i in range(count)], kept)


def test_a_chunk_is_there_when_one_crew_wrote_all_of_it(tmp_path: Path) -> None:
    one, two = Chunk(0, 0), Chunk(0, 50)
    for chunk, rank, of in (
        (one, 0, 2),
        (one, 1, 2),
        (two, 0, 2),
        (two, 1, 3),
        (Chunk(1, 0), 0, 1),
    ):
        write_shard(tmp_path, Shard(chunk, rank, of), rows=shard_rows(2), draws=[], unreadable={})
    (tmp_path / ".e0000-s000050-r1of2.npy.17.part").write_bytes(b"half")
    (tmp_path / "e0003-s000000-r0of1.draws.gz").write_bytes(b"half")
    found = whole_chunks(find_shards(tmp_path))
    assert sorted(found) == [one, Chunk(1, 0)]
    remove_leftovers(tmp_path, found)
    stems = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert stems == {"e0000-s000000-r0of2", "e0000-s000000-r1of2", "e0001-s000000-r0of1"}


def test_a_shard_gives_back_what_it_got(tmp_path: Path) -> None:
    shard, rows, draws = Shard(Chunk(2, 100), 1, 2), shard_rows(2), [draw(4), draw(9)]
    write_shard(tmp_path, shard, rows=rows, draws=draws, unreadable={7: "b.mp4: cut off"})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "e0002-s000100-r1of2.draws.gz",
        "e0002-s000100-r1of2.npy",
        "e0002-s000100-r1of2.unreadable.json",
    ]
    assert np.array_equal(open_rows(tmp_path, shard, rows.dtype), rows)
    again = read_draws(tmp_path, shard)
    assert [one.to_json() for one in again] == [one.to_json() for one in draws]
    assert read_unreadable(tmp_path, shard) == {7: "b.mp4: cut off"}
    with pytest.raises(UserError, match=r"rows are not what cache\.json says"):
        open_rows(tmp_path, shard, contents().row_type)
    (tmp_path / f"{shard.stem}.draws.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"draws\.gz: not readable"):
        read_draws(tmp_path, shard)


def test_no_object_is_ever_unpickled(tmp_path: Path) -> None:
    shard = Shard(Chunk(0, 0), 0, 1)
    np.save(tmp_path / f"{shard.stem}.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"\.npy: not readable"):
        open_rows(tmp_path, shard, contents().row_type)


def test_more_logits_than_classes_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"the 6 largest of 5 logits cannot be kept"):
        contents(top_k=6)

from __future__ import annotations

import distill_reference as reference
import pytest
import torch

from videokd.distill.views import merge_views
from videokd.types import ModelOutput, TapOutput


def test_one_view_is_the_output_itself():
    output = reference.random_output(3, 5, seed=0, stage=(2, 4, 3, 3))

    assert merge_views(output, 1) is output


def test_views_of_a_video_lie_side_by_side():
    output = reference.random_output(6, 5, seed=0)

    merged = merge_views(output, 3)

    for video in range(2):
        views = slice(3 * video, 3 * video + 3)
        torch.testing.assert_close(merged.logits[video], output.logits[views].mean(0))
        torch.testing.assert_close(merged.pooled[video], output.pooled[views].mean(0))


def test_steps_are_sorted_by_seconds_each_with_its_features():
    # Two overlapping clips of one video; the feature of a step is ten times its second.
    seconds = torch.tensor([[0.0, 2.0, 4.0], [1.0, 2.5, 5.0], [7.0, 8.0, 9.0], [0.0, 1.0, 2.0]])
    features = (seconds * 10)[:, None, :, None, None].expand(4, 2, 3, 2, 1)
    weights = seconds.softmax(dim=1)
    output = ModelOutput(
        logits=torch.zeros(4, 2),
        pooled=torch.zeros(4, 2),
        taps={"stage": TapOutput(features, seconds)},
        attention=weights,
        attention_seconds=seconds,
    )

    merged = merge_views(output, 2)

    tap = merged.taps["stage"]
    wanted = [[0.0, 1.0, 2.0, 2.5, 4.0, 5.0], [0.0, 1.0, 2.0, 7.0, 8.0, 9.0]]
    assert tap.step_seconds.tolist() == wanted
    assert tap.features.shape == (2, 2, 6, 2, 1)
    assert torch.equal(tap.features[:, 1, :, 1, 0], tap.step_seconds * 10)
    assert merged.attention_seconds.tolist() == wanted
    torch.testing.assert_close(merged.attention.sum(1), torch.ones(2))
    joined = torch.stack([weights[0], weights[1]]).T.flatten() / 2  # 0, 1, 2, 2.5, 4, 5
    torch.testing.assert_close(merged.attention[0], joined)


def test_output_without_attention_stays_without():
    output = reference.random_output(4, 5, seed=0)
    output.attention = output.attention_seconds = None

    assert merge_views(output, 2).attention is None


@pytest.mark.parametrize("num_views", [0, -1, 4])
def test_clips_that_are_not_whole_videos_are_refused(num_views):
    with pytest.raises(ValueError, match="6 clips are not whole videos of"):
        merge_views(reference.random_output(6, 5, seed=0), num_views)


def test_attention_without_seconds_is_refused():
    output = reference.random_output(6, 5, seed=0)
    output.attention_seconds = None

    with pytest.raises(ValueError, match="cannot be put in order"):
        merge_views(output, 3)

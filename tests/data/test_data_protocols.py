"""The named protocols take the frames that the original toolkits take.

`GOLDEN` and `SWEEPS` were made by running the published code itself, with nothing of it rewritten:
mmaction2 4d6c9347 (`SampleFrames`, `UniformSample`, `DenseSampleFrames`), TSM 1f6a834b
(`TSNDataSet._get_test_indices`, its 1-based names taken as 0-based), PySlowFast 287ec007
(`decoder.decode` over a video reader that returns the numbers of the frames presented between two
time stamps, both included, at a constant rate in ticks of 1/90000 s; `ssv2.get_seq_frames`) and
PyTorchVideo 0.1.5 (`ConstantClipsPerVideoSampler`, `secs_to_pts`, `uniform_temporal_subsample`)
and, for `pytorchvideo_main`, its main branch at f3142bb; those of `torchvision_*` by torchvision
0.29.2 (`VideoClips`, `UniformClipSampler`), which also runs here.
`SWEEPS` are digests over hundreds of lengths and frame rates each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import pytorchvideo
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_video import numbers_of, write_numbered
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler
from pytorchvideo.data.encoded_video import EncodedVideo
from torchvision.datasets.samplers import UniformClipSampler
from torchvision.datasets.video_utils import VideoClips

from videokd.cli.options import PROTOCOL_NAMES
from videokd.data.index import Index
from videokd.data.loading import DataConfig, EvalLoader, read_clips
from videokd.data.loading.clips import eval_draw, replay
from videokd.data.sampling import frame_ids
from videokd.data.sampling.protocols import PROTOCOLS, own_views, protocol_named
from videokd.errors import ConfigError, UserError
from videokd.types import ClassNames, Dense, InputSpec, Sampling, Seconds, Segment, VideoRecord

NTSC, FILM = 30000 / 1001, 24000 / 1001

# fmt: off
GOLDEN: list[tuple[str, Sampling, int, float, list[list[int]]]] = [
    ("mmaction2_dense_10x3", Dense(num_frames=4, stride=8), 100, 30.0,
     [[0, 8, 16, 24], [8, 16, 24, 32], [17, 25, 33, 41], [25, 33, 41, 49], [33, 41, 49, 57],
      [42, 50, 58, 66], [50, 58, 66, 74], [58, 66, 74, 82], [67, 75, 83, 91], [75, 83, 91,
      99]]),
    ("mmaction2_dense_10x3", Dense(num_frames=4, stride=8), 62, 30.0,
     [[0, 8, 16, 24], [4, 12, 20, 28], [8, 16, 24, 32], [12, 20, 28, 36], [16, 24, 32, 40],
      [21, 29, 37, 45], [25, 33, 41, 49], [29, 37, 45, 53], [33, 41, 49, 57], [37, 45, 53,
      61]]),
    ("mmaction2_dense_10x3", Dense(num_frames=4, stride=8), 9, 30.0,
     [[0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6],
      [0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6], [0, 8, 7, 6]]),
    ("mmaction2_dense_5x1", Dense(num_frames=4, stride=8), 91, 30.0,
     [[0, 8, 16, 24], [16, 24, 32, 40], [33, 41, 49, 57], [50, 58, 66, 74], [66, 74, 82,
      90]]),
    ("mmaction2_dense_5x1", Dense(num_frames=4, stride=8), 35, 30.0,
     [[0, 8, 16, 24], [2, 10, 18, 26], [5, 13, 21, 29], [8, 16, 24, 32], [10, 18, 26, 34]]),
    ("mmaction2_dense_1x3", Dense(num_frames=4, stride=8), 80, 30.0,
     [[27, 35, 43, 51]]),
    ("mmaction2_dense_1x3", Dense(num_frames=4, stride=8), 7, 30.0,
     [[0, 1, 2, 3]]),
    ("mmaction2_x3d_10x3", Dense(num_frames=4, stride=5), 100, 25.0,
     [[0, 5, 10, 15], [9, 14, 19, 24], [18, 23, 28, 33], [27, 32, 37, 42], [36, 41, 46, 51],
      [45, 50, 55, 60], [54, 59, 64, 69], [63, 68, 73, 78], [72, 77, 82, 87], [81, 86, 91,
      96]]),
    ("mmaction2_x3d_10x3", Dense(num_frames=4, stride=5), 150, NTSC,
     [[0, 6, 12, 18], [14, 20, 26, 32], [28, 34, 40, 46], [42, 48, 54, 60], [56, 62, 68,
      74], [70, 76, 82, 88], [84, 90, 96, 102], [98, 104, 110, 116], [112, 118, 124, 130],
      [126, 132, 138, 144]]),
    ("mmaction2_x3d_10x3", Dense(num_frames=4, stride=5), 10, 60.0,
     [[0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9],
      [0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9], [0, 3, 6, 9]]),
    ("mmaction2_tsn_25x10", Segment(num_segments=8), 100, 30.0,
     [[2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62, 66, 70, 74, 78, 82, 86,
      90, 94, 98]]),
    ("mmaction2_tsn_25x10", Segment(num_segments=8), 17, 30.0,
     [[0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9, 10, 11, 11, 12, 13, 13, 14, 15, 15,
      16]]),
    ("mmaction2_tsn_25x10", Segment(num_segments=8), 250, 30.0,
     [[5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 105, 115, 125, 135, 145, 155, 165, 175, 185,
      195, 205, 215, 225, 235, 245]]),
    ("mmaction2_tsm_1x10", Segment(num_segments=8), 100, 30.0,
     [[6, 18, 31, 43, 56, 68, 81, 93]]),
    ("mmaction2_tsm_1x10", Segment(num_segments=8), 47, 30.0,
     [[2, 8, 14, 20, 26, 32, 38, 44]]),
    ("mmaction2_tsm_1x10", Segment(num_segments=8), 5, 30.0,
     [[0, 0, 1, 2, 2, 3, 4, 4]]),
    ("mmaction2_tsm_twice_2x3", Segment(num_segments=8), 61, 30.0,
     [[3, 11, 19, 26, 34, 41, 49, 57], [0, 7, 15, 22, 30, 38, 45, 53]]),
    ("mmaction2_tsm_twice_2x3", Segment(num_segments=8), 4, 30.0,
     [[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3]]),
    ("mmaction2_tsm_dense_10x3", Dense(num_frames=4, stride=16), 100, 30.0,
     [[0, 16, 32, 48], [4, 20, 36, 52], [8, 24, 40, 56], [12, 28, 44, 60], [16, 32, 48, 64],
      [20, 36, 52, 68], [24, 40, 56, 72], [28, 44, 60, 76], [32, 48, 64, 80], [36, 52, 68,
      84]]),
    ("mmaction2_tsm_dense_10x3", Dense(num_frames=4, stride=16), 40, 30.0,
     [[0, 16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8], [0,
      16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8], [0, 16, 32, 8]]),
    ("mmaction2_uniform_4x3", Segment(num_segments=5), 100, 30.0,
     [[3, 23, 43, 62, 82], [7, 27, 47, 66, 86], [11, 31, 51, 70, 90], [15, 35, 55, 74,
      94]]),
    ("mmaction2_uniform_4x3", Segment(num_segments=5), 37, 30.0,
     [[1, 8, 15, 23, 30], [2, 9, 16, 24, 31], [4, 11, 18, 26, 33], [5, 12, 19, 27, 34]]),
    ("mmaction2_uniform_4x3", Segment(num_segments=5), 3, 30.0,
     [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 100, 30.0,
     [[0, 10, 20, 31], [7, 17, 27, 37], [14, 24, 34, 44], [21, 31, 41, 51], [28, 38, 48,
      58], [34, 44, 54, 65], [41, 51, 61, 71], [48, 58, 68, 78], [55, 65, 75, 85], [62, 72,
      82, 92]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 100, 25.0,
     [[0, 8, 17, 25], [8, 16, 25, 33], [15, 23, 32, 40], [22, 30, 39, 47], [30, 38, 47, 55],
      [37, 45, 54, 62], [44, 52, 61, 69], [52, 60, 69, 77], [59, 67, 76, 84], [66, 74, 83,
      91]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 150, NTSC,
     [[0, 10, 20, 30], [12, 22, 32, 42], [24, 34, 44, 54], [36, 46, 56, 66], [48, 58, 68,
      78], [60, 70, 80, 89], [71, 81, 91, 101], [83, 93, 103, 113], [95, 105, 115, 125],
      [107, 117, 127, 137]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 60, 15.0,
     [[0, 5, 10, 15], [5, 10, 15, 19], [9, 14, 19, 23], [14, 19, 24, 28], [18, 23, 28, 32],
      [22, 27, 32, 37], [27, 32, 37, 41], [31, 36, 41, 45], [36, 41, 46, 50], [40, 45, 50,
      54]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 30, 15.0,
     [[0, 5, 10, 15], [1, 6, 11, 16], [2, 7, 12, 17], [4, 9, 14, 19], [5, 10, 15, 20], [7,
      12, 17, 22], [8, 13, 18, 23], [9, 14, 19, 24], [11, 16, 21, 26], [12, 17, 22, 27]]),
    ("pyslowfast_10x3", Dense(num_frames=4, stride=8), 20, 30.0,
     [[0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19],
      [0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19], [0, 10, 19, 19]]),
    ("pyslowfast_offset_5x1", Dense(num_frames=4, stride=8), 100, 25.0,
     [[0, 8, 17, 25], [18, 26, 35, 43], [36, 44, 53, 61], [54, 62, 71, 79], [72, 80, 89,
      97]]),
    ("pyslowfast_offset_5x1", Dense(num_frames=4, stride=8), 33, 30.0,
     [[0, 10, 20, 31], [0, 10, 20, 31], [0, 10, 20, 31], [0, 10, 20, 31], [0, 10, 20, 31]]),
    ("pyslowfast_offset_5x1", Dense(num_frames=4, stride=8), 90, 50.0,
     [[0, 17, 34, 52], [9, 26, 43, 61], [18, 35, 52, 70], [27, 44, 61, 79], [36, 53, 70,
      88]]),
    ("pyslowfast_ssv2_1x3", Segment(num_segments=8), 49, 12.0,
     [[3, 9, 15, 21, 27, 33, 39, 45]]),
    ("pyslowfast_ssv2_1x3", Segment(num_segments=8), 100, 12.0,
     [[6, 18, 31, 43, 56, 68, 80, 93]]),
    ("pyslowfast_ssv2_1x3", Segment(num_segments=8), 3, 12.0,
     [[0, 0, 0, 1, 1, 1, 2, 2]]),
    ("pytorchvideo_10x3", Dense(num_frames=4, stride=8), 100, 30.0,
     [[0, 10, 20, 31], [7, 17, 27, 38], [14, 24, 34, 45], [21, 31, 41, 52], [28, 38, 48,
      59], [35, 45, 55, 65], [41, 51, 61, 72], [48, 58, 68, 79], [55, 65, 75, 86], [62, 72,
      82, 93]]),
    ("pytorchvideo_10x3", Dense(num_frames=4, stride=8), 100, 25.0,
     [[0, 8, 17, 26], [8, 16, 24, 33], [15, 23, 32, 41], [23, 31, 39, 48], [30, 38, 46, 55],
      [37, 45, 54, 63], [45, 53, 61, 70], [52, 60, 68, 77], [59, 67, 76, 85], [67, 75, 83,
      92]]),
    ("pytorchvideo_10x3", Dense(num_frames=4, stride=8), 150, NTSC,
     [[0, 10, 20, 31], [12, 22, 32, 43], [24, 34, 44, 55], [36, 46, 56, 67], [48, 58, 68,
      79], [60, 70, 80, 90], [71, 81, 91, 102], [83, 93, 103, 114], [95, 105, 115, 126],
      [107, 117, 127, 138]]),
    ("pytorchvideo_10x3", Dense(num_frames=4, stride=8), 20, 30.0,
     [[0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6,
      12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19]]),
    ("pytorchvideo_10x3", Dense(num_frames=4, stride=8), 60, 15.0,
     [[0, 5, 10, 15], [5, 10, 15, 20], [9, 14, 19, 24], [14, 19, 24, 29], [18, 23, 28, 33],
      [23, 27, 32, 37], [27, 32, 37, 42], [31, 36, 41, 46], [36, 41, 46, 51], [40, 45, 50,
      55]]),
    ("pytorchvideo_10x3", Seconds(num_frames=4, span_seconds=1.5), 75, 25.0,
     [[0, 12, 24, 37], [4, 16, 28, 41], [8, 20, 32, 44], [12, 24, 36, 48], [15, 27, 39, 52],
      [19, 31, 43, 56], [23, 35, 47, 59], [27, 39, 51, 63], [30, 42, 54, 67], [34, 46, 58,
      71]]),
    ("pytorchvideo_main_10x3", Dense(num_frames=4, stride=8), 100, 30.0,
     [[0, 10, 20, 31], [8, 18, 28, 39], [16, 26, 36, 47], [23, 33, 43, 54], [31, 41, 51, 62],
      [38, 48, 58, 69], [46, 56, 66, 77], [53, 63, 73, 84], [61, 71, 81, 92], [69, 79, 89,
      99]]),
    ("pytorchvideo_main_10x3", Dense(num_frames=4, stride=8), 150, NTSC,
     [[0, 10, 20, 31], [14, 24, 34, 45], [27, 37, 47, 58], [40, 50, 60, 71], [53, 63, 73,
      84], [66, 76, 86, 97], [79, 89, 99, 110], [92, 102, 112, 123], [105, 115, 125, 136],
      [119, 129, 139, 149]]),
    ("pytorchvideo_main_10x3", Dense(num_frames=4, stride=8), 20, 30.0,
     [[0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6,
      12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19], [0, 6, 12, 19]]),
    ("pytorchvideo_main_10x3", Seconds(num_frames=4, span_seconds=1.5), 75, 25.0,
     [[0, 12, 24, 37], [5, 17, 29, 41], [9, 21, 33, 45], [13, 25, 37, 49], [17, 29, 41, 54],
      [21, 33, 45, 58], [25, 37, 49, 62], [30, 42, 54, 66], [34, 46, 58, 70], [38, 50, 62,
      74]]),
    ("torchvision_5x1", Seconds(num_frames=4, span_seconds=4 / 7.5), 100, 30.0,
     [[0, 4, 8, 12], [20, 24, 28, 32], [40, 44, 48, 52], [60, 64, 68, 72], [84, 88, 92,
      96]]),
    ("torchvision_5x1", Seconds(num_frames=4, span_seconds=4 / 15), 100, 25.0,
     [[0, 1, 3, 5], [23, 25, 26, 28], [46, 48, 50, 51], [70, 71, 73, 75], [93, 95, 96, 98]]),
    ("torchvision_5x1", Seconds(num_frames=4, span_seconds=4 / 15), 150, NTSC,
     [[0, 1, 3, 5], [33, 35, 37, 39], [69, 71, 73, 75], [105, 107, 109, 111], [141, 143, 145,
      147]]),
    ("torchvision_12x1", Seconds(num_frames=4, span_seconds=4 / 15), 41, 12.0,
     [[0, 0, 1, 2], [3, 4, 4, 5], [6, 7, 8, 8], [9, 10, 11, 12], [13, 14, 15, 16], [16, 17, 18,
      19], [20, 20, 21, 22], [23, 24, 24, 25], [27, 28, 28, 29], [30, 31, 32, 32], [33, 34,
      35, 36], [37, 38, 39, 40]]),
    ("tsm_uniform_1x1", Segment(num_segments=8), 47, 30.0,
     [[2, 8, 14, 20, 26, 32, 38, 44]]),
    ("tsm_twice_2x3", Segment(num_segments=8), 61, 30.0,
     [[3, 11, 19, 26, 34, 41, 49, 57], [0, 7, 15, 22, 30, 38, 45, 53]]),
    ("tsm_dense_10x3", Dense(num_frames=4, stride=16), 100, 30.0,
     [[0, 16, 32, 48], [4, 20, 36, 52], [8, 24, 40, 56], [12, 28, 44, 60], [16, 32, 48, 64],
      [20, 36, 52, 68], [24, 40, 56, 72], [28, 44, 60, 76], [32, 48, 64, 80], [36, 52, 68,
      84]]),
]

SWEEPS = {
    "mmaction2_dense_10x3": "f3a99387c8a02ac8",
    "mmaction2_dense_10x1": "f3a99387c8a02ac8",
    "mmaction2_dense_5x3": "f5f1f12d49143936",
    "mmaction2_dense_5x1": "f5f1f12d49143936",
    "mmaction2_dense_4x3": "61c89c88ed4c1c20",
    "mmaction2_dense_4x1": "61c89c88ed4c1c20",
    "mmaction2_dense_1x3": "af7ea5ebdd7e88bc",
    "mmaction2_x3d_10x3": "5daef29e607ecad6",
    "mmaction2_tsn_25x10": "5fd7f7b95ea46008",
    "mmaction2_tsm_1x10": "cbf67fa9d55459b9",
    "mmaction2_tsm_1x3": "cbf67fa9d55459b9",
    "mmaction2_tsm_1x1": "cbf67fa9d55459b9",
    "mmaction2_tsm_twice_2x3": "627a5bdd5e9d56e6",
    "mmaction2_tsm_dense_10x10": "f7455ff73e60f2e5",
    "mmaction2_tsm_dense_10x3": "f7455ff73e60f2e5",
    "mmaction2_uniform_1x3": "ee15a011d82aa81c",
    "mmaction2_uniform_2x3": "01eff0dd501e5138",
    "mmaction2_uniform_4x3": "50413aa6e2a8e341",
    "pyslowfast_10x3": "a8d691d526844958",
    "pyslowfast_offset_5x1": "26542b5a8ae55709",
    "pyslowfast_offset_5x3": "26542b5a8ae55709",
    "pyslowfast_ssv2_1x3": "57b2b58647c3df5e",
    "pytorchvideo_10x3": "e60bbc4270b0fee1",
    "pytorchvideo_main_10x3": "738866e792a8a614",
    "tsm_uniform_1x1": "cbf67fa9d55459b9",
    "tsm_twice_2x3": "627a5bdd5e9d56e6",
    "tsm_dense_10x3": "f7455ff73e60f2e5",
}
# fmt: on


def sweep_samplings(name: str) -> list[Sampling]:
    if PROTOCOLS[name].kinds == ("seconds",):
        pairs = [(16, 7.5), (16, 15), (32, 15)]
        return [Seconds(num_frames=count, span_seconds=count / rate) for count, rate in pairs]
    if PROTOCOLS[name].kinds == ("segment",):
        return [Segment(num_segments=count) for count in (8, 5, 16)]
    pairs = [(8, 8), (5, 12)] if PROTOCOLS[name].clip_range else [(8, 8), (13, 6), (16, 4)]
    return [Dense(num_frames=count, stride=stride) for count, stride in pairs]


@pytest.mark.parametrize(
    ("name", "sampling", "num_frames", "fps", "expected"),
    GOLDEN,
    ids=[f"{name}-{n}-{fps:.4g}" for name, _, n, fps, _ in GOLDEN],
)
def test_frames_are_those_that_the_original_takes(
    name: str, sampling: Sampling, num_frames: int, fps: float, expected: list[list[int]]
) -> None:
    found = PROTOCOLS[name].frame_ids(sampling, num_frames=num_frames, fps=fps)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize(  # torchvision itself runs further down
    "name", [name for name in PROTOCOLS if not name.startswith("torchvision")]
)
def test_frames_are_those_of_the_original_over_many_lengths_and_rates(name: str) -> None:
    looks_at_fps = name.startswith(("mmaction2_x3d", "pytorchvideo")) or (
        name.startswith("pyslowfast") and "ssv2" not in name
    )
    rates = (30.0, 25.0, NTSC, FILM, 15.0, 60.0) if looks_at_fps else (30.0,)
    digest = hashlib.sha256()
    for sampling in sweep_samplings(name):
        for fps in rates:
            for num_frames in range(1, 321, 7 if looks_at_fps else 1):
                ids = PROTOCOLS[name].frame_ids(sampling, num_frames=num_frames, fps=fps)
                digest.update(ids.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == SWEEPS[name]


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(PROTOCOLS)),
    num_frames=st.integers(1, 2000),
    fps=st.sampled_from([10.0, 15.0, FILM, 25.0, NTSC, 30.0, 50.0, 60.0]),
    count=st.integers(1, 40),
    stride=st.integers(1, 12),
)
def test_every_clip_is_whole_and_inside_the_video(
    name: str, num_frames: int, fps: float, count: int, stride: int
) -> None:
    views = PROTOCOLS[name]
    sampling: Sampling = Segment(num_segments=count)
    if "dense" in views.kinds:
        stride = views.clip_range // count if views.clip_range else max(stride, 6)
        sampling = Dense(num_frames=count, stride=stride)
    elif "seconds" in views.kinds:
        sampling = Seconds(num_frames=count, span_seconds=count * stride / 30)
    found = views.frame_ids(sampling, num_frames=num_frames, fps=fps)
    assert found.shape == (views.num_clips, views.num_frames or count)
    assert found.min() >= 0
    assert found.max() < num_frames


@pytest.fixture(scope="module")
def subsampling() -> ModuleType:
    """PyTorchVideo's own module, by its path: its package does not import beside torchvision."""
    path = Path(pytorchvideo.__file__).parent / "transforms" / "functional.py"
    spec = importlib.util.spec_from_file_location("pytorchvideo_functional", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("fps", "num_frames", "sampling", "seconds"),
    [
        (25, 70, Dense(num_frames=4, stride=8), 32 / 30),
        (30, 50, Dense(num_frames=8, stride=4), 32 / 30),
        (30, 20, Dense(num_frames=8, stride=4), 32 / 30),  # shorter than a clip
        (10, 41, Seconds(num_frames=5, span_seconds=1.5), 1.5),
        (30, 64, Seconds(num_frames=8, span_seconds=64 / 30), 64 / 30),
    ],
)
def test_pytorchvideo_reads_the_same_frames_of_a_file(
    tmp_path: Path,
    subsampling: ModuleType,
    fps: int,
    num_frames: int,
    sampling: Sampling,
    seconds: float,
) -> None:
    """Its sampler, its PyAV reader and its subsampling, on a file whose frames are numbered."""
    path = write_numbered(tmp_path / "numbered.mp4", num_frames, fps=fps)
    video = EncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
    sampler, last, expected = ConstantClipsPerVideoSampler(seconds, 10), None, []
    for _ in range(10):
        clip = sampler(last, video.duration, {})
        last = clip.clip_end_sec
        frames = video.get_clip(clip.clip_start_sec, clip.clip_end_sec)["video"]
        chosen = subsampling.uniform_temporal_subsample(frames, sampling.num_frames, -3)
        expected.append(numbers_of(chosen.permute(1, 2, 3, 0).byte().numpy()))
    found = protocol_named("pytorchvideo_10x3").frame_ids(
        sampling, num_frames=num_frames, fps=float(fps)
    )
    assert found.tolist() == expected


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 400), fps=st.sampled_from([15.0, FILM, 25.0, NTSC, 30.0, 59.94]))
def test_pytorchvideos_sampler_and_ours_agree_on_what_a_clip_covers(
    num_frames: int, fps: float
) -> None:
    rate, seconds = Fraction(fps).limit_denominator(1001), 64 / 30
    sampler = ConstantClipsPerVideoSampler(seconds, 10)
    found = PROTOCOLS["pytorchvideo_10x3"].frame_ids(
        Dense(num_frames=8, stride=8), num_frames=num_frames, fps=fps
    )
    for ids in found:
        clip = sampler(None, num_frames / rate, {})
        covered = [
            i for i in range(num_frames) if clip.clip_start_sec <= i / rate < clip.clip_end_sec
        ]
        steps = torch.linspace(0, len(covered) - 1, 8).clamp(0, len(covered) - 1).long()
        assert ids.tolist() == [covered[i] for i in steps]


@settings(max_examples=60, deadline=None)
@given(
    num_frames=st.integers(1, 2000),
    fps=st.sampled_from([7.5, 12.0, 15.0, FILM, 25.0, NTSC, 29.97, 30.0, 50.0, 59.94]),
    clip=st.sampled_from([(4, 15.0), (16, 7.5), (16, 15.0), (32, 15.0), (128, 15.0)]),
    name=st.sampled_from(["torchvision_5x1", "torchvision_12x1"]),
)
def test_torchvisions_sampler_takes_the_same_clips(
    num_frames: int, fps: float, clip: tuple[int, float], name: str
) -> None:
    count, rate = clip
    protocol = PROTOCOLS[name]
    sampling = Seconds(num_frames=count, span_seconds=count / rate)
    ours = protocol.frame_ids(sampling, num_frames=num_frames, fps=fps)
    metadata = {"video_paths": [""], "video_pts": [torch.arange(num_frames)], "video_fps": [fps]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There aren't enough frames")
        videos = VideoClips([""], count, 1, rate, _precomputed_metadata=metadata)
    (clips,) = videos.clips
    if len(clips):
        places = list(UniformClipSampler(videos, protocol.num_clips))
        assert ours.tolist() == clips[places].tolist()
    else:  # it leaves the video out
        assert np.array_equal(ours, np.repeat(ours[:1], protocol.num_clips, axis=0))
        assert ours[0, 0] == 0
        assert np.all(np.diff(ours[0]) >= 0)


def test_a_clip_without_a_frame_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"a clip of 0\.03333 s holds no frame of a video at 10 fps"
    ):
        PROTOCOLS["pytorchvideo_10x3"].frame_ids(
            Dense(num_frames=1, stride=1), num_frames=55, fps=10.0
        )


# What mmaction2's and TSM's training code reaches: sets of 3000 draws of the published code.
MMACTION2_STARTS = {(20, 4, 3): range(9), (20, 4, 1): range(17), (12, 4, 3): range(1)}
TSM_SEGMENTS = {12: [range(0, 3), range(3, 6), range(6, 9), range(9, 12)],
                13: [range(0, 3), range(3, 6), range(6, 9), range(9, 12)]}  # fmt: skip
TSM_DENSE_STARTS = range(6)  # n = 70, T = 8
UNIFORM_SEGMENTS = [range(0, 4), range(3, 7), range(6, 10), range(9, 13)]  # n = 13, T = 4


def reached(sampling: Sampling, num_frames: int) -> list[set[int]]:
    """What each frame of our training clips can be."""
    generator = np.random.default_rng(0)
    clips = frame_ids(
        sampling, num_frames=num_frames, fps=25.0, num_clips=3000,
        start="random", generator=generator,
    )  # fmt: skip
    return [set(column.tolist()) for column in clips.T]


@pytest.mark.parametrize(("num_frames", "count", "stride"), MMACTION2_STARTS)
def test_mmaction2_trains_on_the_same_dense_clips_but_for_the_last_starts(
    num_frames: int, count: int, stride: int
) -> None:
    theirs = set(MMACTION2_STARTS[num_frames, count, stride])
    ours = reached(Dense(num_frames=count, stride=stride), num_frames)[0]
    last = max(theirs)
    assert ours == theirs | set(range(last + 1, last + stride))


def test_tsn_and_tsm_train_on_the_same_segments_where_they_divide_the_video() -> None:
    assert reached(Segment(num_segments=4), 12) == [set(part) for part in TSM_SEGMENTS[12]]
    ours = reached(Segment(num_segments=4), 13)
    assert set().union(*ours) == set(range(13))
    assert set().union(*TSM_SEGMENTS[13]) == set(range(12))


def test_other_training_samplings_differ_as_the_module_says() -> None:
    ours = reached(Dense(num_frames=8, stride=8), 70)[0]
    assert ours == set(range(14))
    assert set(TSM_DENSE_STARTS) == set(range(70 - 64))
    segments = reached(Segment(num_segments=4), 13)
    assert all(a.isdisjoint(b) for a, b in pairwise(segments))
    assert [max(part) for part in UNIFORM_SEGMENTS[:-1]] == [
        min(part) for part in UNIFORM_SEGMENTS[1:]
    ]


def test_a_protocol_for_another_sampling_is_refused_with_those_that_fit() -> None:
    with pytest.raises(ConfigError, match="mmaction2_dense_10x3 is for dense sampling") as refused:
        PROTOCOLS["mmaction2_dense_10x3"].frame_ids(
            Segment(num_segments=8), num_frames=100, fps=25.0
        )
    fitting = str(refused.value).rpartition("protocols for it: ")[2].split(", ")
    assert fitting == [name for name, views in PROTOCOLS.items() if "segment" in views.kinds]
    with pytest.raises(ConfigError, match=r"with stride 64 // num_frames, the network .* stride 4"):
        PROTOCOLS["tsm_dense_10x3"].check(Dense(num_frames=8, stride=4))
    with pytest.raises(ConfigError, match=r"for it: (pytorchvideo\w+, ){2}torchvision_5x1, "):
        PROTOCOLS["pyslowfast_10x3"].check(Seconds(num_frames=8, span_seconds=2))
    with pytest.raises(ValueError, match="must be above 0, not 0 and 25"):
        own_views().frame_ids(Segment(num_segments=8), num_frames=0, fps=25.0)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pyslowfast_10x3'"):
        protocol_named("pyslowfast_10x4")


def test_help_knows_every_protocol() -> None:
    assert PROTOCOL_NAMES.split(", ") == list(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_name_ends_in_its_clips_and_crops(name: str) -> None:
    views = PROTOCOLS[name]
    clips = views.num_frames or views.num_clips  # 25x10: 25 segments of one clip
    assert name.endswith(f"_{clips}x{views.num_crops}")
    assert views.num_views == views.num_clips * views.num_crops
    assert pickle.loads(pickle.dumps(views)) == views  # it goes to worker processes


def test_own_views_are_uniform_clips() -> None:
    sampling = Dense(num_frames=4, stride=3)
    ours = own_views(5, 3).frame_ids(sampling, num_frames=50, fps=25.0)
    assert (
        ours.tolist()
        == frame_ids(sampling, num_frames=50, fps=25.0, num_clips=5, start="uniform").tolist()
    )


def places(name: str, *, short_side_px: int, crop_px: int) -> list[tuple[int, int, int]]:
    """(top, left, side) on a frame of 256 x 340 px."""
    spec = InputSpec(sampling=Segment(num_segments=4), short_side_px=short_side_px, crop_px=crop_px)
    crops = PROTOCOLS[name].crops(spec, height=256, width=340)
    return [
        (round(crop.top * 256), round(crop.left * 340), round(crop.height * 256)) for crop in crops
    ]


def test_three_crops_reach_over_the_whole_shorter_side() -> None:
    """mmaction2's ThreeCrop and PySlowFast's uniform_crop of 256 px: left edges 0, 42, 84."""
    for crop_px in (224, 256):
        found = places("pyslowfast_ssv2_1x3", short_side_px=256, crop_px=crop_px)
        assert found == [(0, 0, 256), (0, 42, 256), (0, 84, 256)]


def test_ten_crops_are_the_corners_and_the_centre_each_with_its_mirror_image() -> None:
    """mmaction2's TenCrop of 224 px out of 256 x 340."""
    found = places("mmaction2_tsm_1x10", short_side_px=256, crop_px=224)
    corners = [(0, 0, 224), (0, 116, 224), (32, 0, 224), (32, 116, 224), (16, 58, 224)]
    assert found == [place for place in corners for _ in range(2)]
    spec = InputSpec(sampling=Segment(num_segments=4), short_side_px=256, crop_px=224)
    crops = PROTOCOLS["mmaction2_tsm_1x10"].crops(spec, height=256, width=340)
    assert [crop.mirrored for crop in crops] == [False, True] * 5
    five = own_views(1, 5).crops(spec, height=256, width=340)
    assert five == crops[::2]


SEGMENTS = InputSpec(sampling=Segment(num_segments=4), short_side_px=64, crop_px=48)


def test_mirrored_views_show_the_mirrored_pixels(records: tuple[VideoRecord, ...]) -> None:
    record, views = records[0], PROTOCOLS["mmaction2_tsm_1x10"]
    draw = eval_draw(0, record, SEGMENTS, views)
    frames = replay(record, draw, {"student": SEGMENTS})[0]["student"]
    assert frames.shape == (10, 4, 48, 48, 3)
    assert (frames[1::2] == frames[::2, :, :, ::-1]).all()
    assert (frames[0] != frames[2]).any()


def test_the_loader_and_a_single_file_show_the_views_of_a_protocol(
    records: tuple[VideoRecord, ...], classes: ClassNames, tmp_path: Path
) -> None:
    index = Index(tmp_path / "x.csv", classes, records)
    spec = InputSpec(sampling=Dense(num_frames=4, stride=4), short_side_px=64, crop_px=64)
    views = PROTOCOLS["mmaction2_dense_5x1"]
    loader = EvalLoader(
        index, DataConfig(index=index.path, num_workers=0), spec=spec, split="test", views=views,
        batch_size=1,
    )  # fmt: skip
    for batch in loader:
        record = records[int(batch.video_ids[0])]
        expected = views.frame_ids(spec.sampling, num_frames=record.num_frames, fps=record.fps)
        assert batch.draws[0].frame_ids["student"].tolist() == expected.tolist()
        assert torch.equal(
            batch.frame_seconds["student"][0], torch.from_numpy(expected / 25.0).float()
        )
    assert len(list(loader.batches(1, 2))) == 1
    single = read_clips(records[4].path, spec, views=views)
    assert single.frames["student"].shape == (1, 5, 4, 64, 64, 3)
    with pytest.raises(ConfigError, match="tsm_uniform_1x1 is for segment sampling"):
        EvalLoader(
            index, DataConfig(index=index.path), spec=spec, split="test",
            views=PROTOCOLS["tsm_uniform_1x1"], batch_size=1,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="tsm_uniform_1x1 is for segment sampling"):
        read_clips(records[4].path, spec, views=PROTOCOLS["tsm_uniform_1x1"])

"""What only a GPU can show; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recipes import as_config, recipe, student_recipe, teacher_recipe

from videokd.data.augment.device import augmented_clips, mixed_targets
from videokd.data.index import Index
from videokd.experiments.benchmark import benchmark_runs
from videokd.recipe import build, create_fabric
from videokd.runs import evaluate, train
from videokd.tracking import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_auto_takes_the_gpu_and_its_bfloat16() -> None:
    fabric = create_fabric("auto")
    assert fabric.device.type == "cuda"
    assert fabric._precision.precision == (
        "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_is_distilled_on_the_gpu(
    tiny_index: Index, tmp_path: Path, precision: str
) -> None:
    teacher = teacher_recipe(tiny_index, tmp_path / "teacher")
    teacher["train"]["precision"] = precision
    train(as_config(teacher), device="cuda", quiet=True)
    student = student_recipe(tiny_index, tmp_path / "student", tmp_path / "teacher")
    student["train"]["precision"] = precision
    outcome = train(as_config(student), device="cuda", insist=True, quiet=True)
    assert outcome.steps == 6
    document = evaluate(tmp_path / "student", device="cuda", quiet=True)
    assert document["num_videos"] == 12
    (result,) = benchmark_runs([tmp_path / "student"], device="cuda", quick=True, quiet=True)
    assert result.device.startswith("cuda")
    assert result.peak_mem_gib is not None


def test_the_first_loss_is_the_cpus(tiny_index: Index, tmp_path: Path) -> None:
    """fp32 on both: the same weights, draws and dropout-free forward give the same first loss."""
    first = []
    for device in ("cpu", "cuda"):
        settings = recipe(tiny_index, tmp_path / device)
        settings["model"]["dropout"] = 0.0
        settings["train"] |= {"precision": "fp32", "epochs": 1}
        train(as_config(settings), device=device, quiet=True)  # type: ignore[arg-type]
        first.append(read_metrics(tmp_path / device / "metrics.jsonl")[0]["loss"])
    assert first[1] == pytest.approx(first[0], rel=1e-3)


def test_augmentation_is_the_cpus_and_does_not_wait(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    settings["data"]["num_workers"] = 1  # with pinned memory
    settings["data"]["augment"] |= {
        "colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "rand_augment": {"num_ops": 2, "magnitude": 9},
        "erase": {"probability": 0.5, "mode": "noise"},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    }
    batch = next(build(as_config(settings), create_fabric("cuda")).loader.batches(0, 1))
    on_gpu = batch.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        clips = augmented_clips(on_gpu, "student")
        targets, _ = mixed_targets(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # Equalising and posterising round: a pixel at an edge may fall to the other side.
    difference = (clips.cpu() - augmented_clips(batch, "student")).abs()
    assert float((difference > 1e-3).float().mean()) < 0.01
    torch.testing.assert_close(targets.cpu(), mixed_targets(batch)[0])

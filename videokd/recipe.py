"""The recipe of a run, and `build()`: the one place where names in a recipe meet code.

Below this file every object takes plain arguments; above it, everything has a `RunConfig`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator

from videokd.checkpoint import load_checkpoint
from videokd.config import Config, load_config, parse_config
from videokd.data.index import Index, read_index
from videokd.data.loading import DataConfig, EvalLoader, TrainLoader
from videokd.data.sampling import SameFrames, TeacherView, WholeVideo
from videokd.data.sampling.protocols import EvalProtocol
from videokd.distill.objective import Networks, Objective, ObjectiveConfig
from videokd.engine.evaluate import EvalConfig, score_videos
from videokd.engine.train import TrainConfig, Trainer, Validation
from videokd.errors import ConfigError, UserError
from videokd.files import file_digest
from videokd.first_weights import InitConfig, checkpoint_file, find_weights, load_first_weights
from videokd.models.students import TimmVideoConfig
from videokd.models.temporal import NoTemporalConfig
from videokd.models.video_model import Frozen, VideoModel
from videokd.models.weights import LoadReport, load_weights
from videokd.models.zoo import ModelConfig, create_video_model
from videokd.types import ClassNames, InputSpec, TapShape

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Role = Literal["teacher", "control", "student", "no_temporal"]
Device = Literal["auto", "cpu", "cuda"]

_SEED_OF_WEIGHTS = 1
_SEED_OF_PROJECTIONS = 2


class TeacherConfig(Config):
    """The trained network whose outputs the student learns from."""

    checkpoint: Path
    """A run folder (its best.pt is taken) or a .pt file of ours."""
    view: TeacherView = Field(default_factory=SameFrames)
    """What the teacher sees of the student's video."""


class RunConfig(Config):
    """One training run: a teacher, a control or a distilled student."""

    role: Role
    """What the run is in a comparison; reports colour and order by it."""
    seed: int = Field(0, ge=0)
    """Decides everything that chance decides."""
    data: DataConfig
    model: ModelConfig
    """The network that this run trains."""
    init: InitConfig = Field(default_factory=InitConfig)
    teacher: TeacherConfig | None = None
    """Needed by distillation terms; without it the run is plain training."""
    objective: ObjectiveConfig
    train: TrainConfig
    eval: EvalConfig = Field(default_factory=EvalConfig)
    output_dir: Path
    """The run folder; relative paths start at the current directory."""

    @model_validator(mode="after")
    def _teacher_is_used(self) -> RunConfig:
        if self.objective.needs_teacher and self.teacher is None:
            raise ValueError(
                "objective has distillation terms, but there is no teacher; give teacher.checkpoint"
            )
        if self.teacher is not None and not self.objective.needs_teacher:
            raise ValueError("a teacher is given, but no term of objective uses it; remove one")
        return self

    @model_validator(mode="after")
    def _weights_are_there(self) -> RunConfig:
        if self.train.epochs == 0 and (self.init.weights is None or self.init.replace_head):
            raise ValueError(
                "train.epochs 0 takes the first weights as they are, and here they are random; "
                "give init.weights (without init.replace_head), or train"
            )
        return self


def load_recipe(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read and check a recipe file, with `key.sub=value` overrides over it."""
    return load_config(RunConfig, path, overrides)


@dataclass(frozen=True)
class Trained:
    """A trained network with all that is needed to use it."""

    model: VideoModel
    classes: ClassNames
    config: RunConfig
    """The recipe that it was trained by."""
    path: Path
    """The checkpoint."""
    state: dict[str, Any]
    """What its training had come to: step, best, unreadable, seconds."""

    @property
    def precision(self) -> Literal["auto", "fp32"]:
        """What to use it in: fp32 where it was trained so, else what suits the device at hand."""
        return "fp32" if self.config.train.precision == "fp32" else "auto"

    @property
    def name(self) -> str:
        """The run folder's."""
        return self.path.resolve().parent.name


def load_trained(path: Path | str) -> Trained:
    """The network of a run folder (its best.pt) or of a checkpoint, on the CPU, in eval mode."""
    flush_denormals()
    file = checkpoint_file(Path(path))
    content = load_checkpoint(file)
    config = parse_config(RunConfig, content["recipe"], source=f"{file}: the recipe inside")
    classes = ClassNames(content["class_names"])
    model = create_video_model(without_pretraining(config.model), num_classes=len(classes))
    load_weights(
        model.network,
        content["model"],
        replace_head=False,
        classifier=model.classifier,
        source=str(file),
    )
    return Trained(model.eval(), classes, config, file, content["state"])


def without_pretraining(config: Any) -> Any:
    """The same network without fetching ImageNet weights, for when others follow anyway."""
    if getattr(config, "pretrained", False):
        return config.model_copy(update={"pretrained": False})
    return config


def create_model(config: RunConfig, classes: ClassNames) -> tuple[VideoModel, LoadReport | None]:
    """The network to train with its first weights, and what was matched if some were loaded.

    The first weights depend on the seed and the network alone, so a control and a student of one
    seed start equal.

    Raises:
        UserError: whatever is wrong with the weights that `init` names.
    """
    model_config = config.model
    if config.init.weights is not None:
        model_config = without_pretraining(model_config)
    model = create_video_model(
        model_config,
        num_classes=len(classes),
        seed=_derived_seed(config.seed, _SEED_OF_WEIGHTS),
    )
    if config.init.weights is None:
        return model, None
    return model, load_first_weights(model, config.init, classes)


def build(
    config: RunConfig, fabric: Fabric, *, on_init: Callable[[str], None] | None = None
) -> Trainer:
    """Turn a recipe into objects: index, networks, objective, loaders, trainer.

    `on_init` is told what was loaded into the student.

    Raises:
        UserError: everything that can be known to be wrong before the first step.
    """
    index = read_index(config.data.index)
    teacher = _load_teacher(config, index)
    with fabric.rank_zero_first(local=True):  # one process of a machine downloads
        first_weights = find_weights(config.init)
    student, load_report = create_model(config, index.classes)
    if load_report is not None and on_init is not None:
        on_init(load_report.summary())
    objective = Objective(
        config.objective,
        Networks(
            student_taps=student.tap_shapes,
            teacher_taps=_teacher_taps(config, teacher),
            student_pooled_dim=student.pooled_dim,
            teacher_pooled_dim=teacher.model.pooled_dim if teacher is not None else None,
            num_classes=len(index.classes),
            num_videos=len(index),
        ),
        seed=_derived_seed(config.seed, _SEED_OF_PROJECTIONS),
    )
    student.keep_taps(config.objective.student_taps)
    if teacher is not None:
        teacher.model.keep_taps(config.objective.teacher_taps)
    loader = TrainLoader(
        index,
        config.data,
        student=config.model.input,
        teacher=teacher.model.spec if teacher is not None else None,
        teacher_view=config.teacher.view if config.teacher is not None else None,
        batch_size=share_of_batch(config.train, fabric.world_size),
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return Trainer(
        fabric=fabric,
        student=student,
        teacher=Frozen(teacher.model) if teacher is not None else None,
        objective=objective,
        loader=loader,
        config=config.train,
        run_dir=config.output_dir,
        seed=config.seed,
        identity={
            "recipe": config.model_dump(mode="json"),
            "class_names": list(index.classes),
            "index": file_digest(config.data.index),
            "teacher": file_digest(teacher.path) if teacher is not None else None,
            "first_weights": file_digest(first_weights.path) if first_weights else None,
        },
        max_unreadable_pct=config.data.max_unreadable_pct,
        validate=_validation(config, index, fabric),
    )


def check_clip_length(model: ModelConfig, views: EvalProtocol) -> None:
    """Refuse a protocol that sets its own number of frames where the network has a fixed one.

    Raises:
        ConfigError: the network is made for clips of one length only.
    """
    made_for = model.input.num_frames
    if views.num_frames in (None, made_for):
        return
    if not isinstance(model, TimmVideoConfig) or not isinstance(model.temporal, NoTemporalConfig):
        raise ConfigError(
            f"protocol {views.name} shows clips of {views.num_frames} frames, this network is made "
            f"for {made_for}; only a network whose frames do not see each other (temporal.kind "
            "none) takes another number: choose another protocol"
        )


def eval_loader(
    config: DataConfig,
    eval_config: EvalConfig,
    index: Index,
    spec: InputSpec,
    *,
    split: str,
    fabric: Fabric,
) -> EvalLoader:
    """The videos of a split as a network wants to see them."""
    return EvalLoader(
        index,
        config,
        spec=spec,
        split=split,
        views=eval_config.views,
        batch_size=eval_config.batch_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


def flush_denormals() -> None:
    """Let the CPU treat numbers below 1e-38 as 0, before anything is computed.

    Trained networks have channels that all but died; on videos of another kind their activations
    are denormal numbers, and a forward pass takes up to twenty times as long. Threads inherit the
    mode from the one that starts them, so it is set before the first parallel operation.
    """
    torch.set_flush_denormal(True)


def use_threads(num_threads: int | None) -> None:
    """Compute on so many CPU threads; None: one a core, or what `OMP_NUM_THREADS` says.

    A thread more than there are idle cores costs more than it gives: the others wait for it,
    spinning. On two cores a small student trains twice as fast on one thread beside one decoding
    worker as on two.
    """
    if num_threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(given) if given.isdecimal() and int(given) else _num_cores()
    torch.set_num_threads(num_threads)


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_batch(config: TrainConfig, world_size: int) -> int:
    """Videos of one step that fall to each process."""
    parts = world_size * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"train.batch_size {config.batch_size} cannot be shared among {world_size} processes "
            f"times train.accumulate {config.accumulate}; choose a multiple of {parts}"
        )
    return config.batch_size // world_size


def create_fabric(
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    *,
    cpu_threads: int | None = None,
) -> Fabric:
    """Lightning Fabric on the device at hand; under torchrun, one process of its group."""
    from lightning_fabric import Fabric

    flush_denormals()
    use_threads(cpu_threads)
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_cuda and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch sees no CUDA device here; use cpu or auto")
    if precision == "bf16" and not use_cuda:
        raise ConfigError(
            "precision bf16 on a CPU: PyTorch's gradients of 3D convolutions are wrong there; use "
            "auto (bf16 on a GPU, fp32 on a CPU) or fp32"
        )
    if precision == "auto":
        precision = "bf16" if use_cuda and torch.cuda.is_bf16_supported() else "fp32"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if use_cuda else "cpu",
        devices=local_size,
        num_nodes=world_size // local_size,
        strategy="ddp" if world_size > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _load_teacher(config: RunConfig, index: Index) -> Trained | None:
    if config.teacher is None:
        return None
    teacher = load_trained(config.teacher.checkpoint)
    if teacher.classes != index.classes:
        raise UserError(
            f"{teacher.path}: the teacher knows {_some(teacher.classes)}, but {config.data.index} "
            f"has {_some(index.classes)}; a teacher of the same classes in the same order is needed"
        )
    return teacher


def _teacher_taps(config: RunConfig, teacher: Trained | None) -> dict[str, TapShape] | None:
    """Shapes after the teacher's clips of a video are put together, one after the other in time."""
    if teacher is None or config.teacher is None:
        return None
    view = config.teacher.view
    num_clips = view.num_clips if isinstance(view, WholeVideo) else 1
    shapes = teacher.model.tap_shapes
    return {name: shape._replace(t=shape.t * num_clips) for name, shape in shapes.items()}


def _validation(
    config: RunConfig, index: Index, fabric: Fabric
) -> Callable[[VideoModel], Validation] | None:
    split = config.data.val_split
    check_clip_length(config.model, config.eval.views)
    config.eval.views.check(config.model.input.sampling)
    if split is None:
        return None
    loader = eval_loader(
        config.data, config.eval, index, config.model.input, split=split, fabric=fabric
    )

    def validate(model: VideoModel) -> Validation:
        scores = score_videos(fabric, model, loader)
        return Validation(top1_pct=scores.top1_pct, cross_entropy=scores.cross_entropy)

    return validate


def _derived_seed(seed: int, use: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0])


def _some(classes: ClassNames) -> str:
    shown = ", ".join(list(classes)[:3])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 3 else ''})"

"""`RunConfig`: all settings of a training run, and what they must agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from videokd.config import LEAVES_WEIGHTS, Config, load_config
from videokd.data.loading import DataConfig
from videokd.distill.terms import ObjectiveConfig
from videokd.engine.evaluate import EvalConfig
from videokd.engine.settings import TrainConfig
from videokd.first_weights import InitConfig
from videokd.models.zoo import ModelConfig
from videokd.recipe.teachers import (
    CheckpointTeacher,
    EmaTeacherConfig,
    PeerTeacher,
    SeveralTeachers,
    TeacherConfig,
)

Role = Literal["teacher", "control", "student", "no_temporal"]
Device = Literal["auto", "cpu", "cuda"]


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
    """Whom distillation terms compare with; without it the run is plain training. Where all those
    terms have weight 0 it may stay, and is not loaded."""
    objective: ObjectiveConfig
    train: TrainConfig
    eval: EvalConfig = Field(default_factory=EvalConfig)
    output_dir: Annotated[Path, LEAVES_WEIGHTS]
    """The run folder; relative paths start at the current directory."""

    @property
    def uses_teacher(self) -> bool:
        """Whether a term that is on compares with the teacher; otherwise it is not loaded."""
        return self.teacher is not None and self.objective.needs_teacher

    @model_validator(mode="after")
    def _teacher_is_used(self) -> RunConfig:
        if self.objective.needs_teacher and self.teacher is None:
            raise ValueError(
                "objective has distillation terms, but there is no teacher; give "
                "teacher.checkpoint, or a teacher of kind several, ema or peer"
            )
        if self.teacher is not None and not any(
            term.needs_teacher for term in self.objective.terms.values()
        ):
            raise ValueError("a teacher is given, but no term of objective uses it; remove one")
        return self

    @model_validator(mode="after")
    def _teacher_can_be_made(self) -> RunConfig:
        if (
            isinstance(self.teacher, EmaTeacherConfig)
            and self.teacher.decay is None
            and self.train.ema_decay is None
        ):
            raise ValueError(
                "teacher kind ema needs to know how slowly it follows the student; give "
                "teacher.decay or train.ema_decay, for example 0.999"
            )
        if (
            isinstance(self.teacher, PeerTeacher)
            and self.init.weights is not None
            and self.teacher.init == self.init
            and not self.init.replace_head
            and self.teacher.model in (None, self.model)
        ):
            raise ValueError(
                "teacher.init gives the peer the student's own first weights, and two equal "
                "networks teach each other nothing; give it others, or set replace_head"
            )
        return self

    @model_validator(mode="after")
    def _placebo_takes_all_away(self) -> RunConfig:
        """A placebo that leaves what the student learns from is the teacher itself."""
        if not (
            isinstance(self.teacher, CheckpointTeacher)
            and self.teacher.placebo == "shuffled_within_class"
        ):
            return self
        for name, term in self.objective.active_terms.items():
            if term.needs_teacher and not term.reads_logits:
                raise ValueError(
                    "teacher.placebo shuffled_within_class gives each clip the logits of another "
                    f"clip, and the term {name!r} goes by {term.reads}, which stay the teacher's; "
                    "give it weight 0, or take placebo random_weights"
                )
        if self.data.augment.mix.is_on:
            raise ValueError(
                "teacher.placebo shuffled_within_class is for clips of one class, and "
                "data.augment.mix makes clips of two; remove it"
            )
        return self

    @model_validator(mode="after")
    def _enough_clips_are_compared(self) -> RunConfig:
        num_clips = self.train.batch_size // self.train.accumulate
        for name, term in self.objective.active_terms.items():
            if num_clips < term.min_clips:
                raise ValueError(
                    f"objective.terms.{name}: {term.kind} compares at least {term.min_clips} clips "
                    f"with each other, and train.batch_size {self.train.batch_size} in "
                    f"{self.train.accumulate} part{'s' * (self.train.accumulate > 1)} has "
                    f"{num_clips} at a time; raise it"
                )
        return self

    @model_validator(mode="after")
    def _confidence_is_among_classes(self) -> RunConfig:
        combine = self.teacher.combine if isinstance(self.teacher, SeveralTeachers) else None
        if combine == "confidence" and self.objective.is_multi_label:
            raise ValueError(
                "teacher.combine confidence goes by which of the classes a teacher takes a clip "
                "for, and here each class is a yes or no of its own; take mean or weighted"
            )
        return self

    @model_validator(mode="after")
    def _unlabelled_videos_teach(self) -> RunConfig:
        if self.data.unlabelled_split is not None and not self.objective.needs_teacher:
            raise ValueError(
                "data.unlabelled_split shows videos without labels, and no term of objective "
                "learns from them; give a distillation term a weight above 0, or remove the split"
            )
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

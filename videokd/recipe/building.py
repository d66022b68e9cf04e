"""`build()`: from a recipe to index, networks, objective, loaders and the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from videokd.data.index import Index, read_index
from videokd.data.loading import DataConfig, EvalLoader, TrainLoader
from videokd.data.sampling.protocols import EvalProtocol
from videokd.distill.objective import Networks, Objective
from videokd.distill.terms import ObjectiveConfig
from videokd.engine.evaluate import EvalConfig, score_videos
from videokd.engine.learner import Learner
from videokd.engine.settings import TrainConfig
from videokd.engine.train import Trainer
from videokd.engine.validation import MultiLabelValidation, Validation
from videokd.errors import ConfigError
from videokd.files import file_digest
from videokd.first_weights import find_weights, load_first_weights
from videokd.metrics import mean_average_precision_pct
from videokd.models.students import TimmVideoConfig
from videokd.models.temporal import NoTemporalConfig
from videokd.models.video_model import VideoModel
from videokd.models.weights import LoadReport
from videokd.models.zoo import ModelConfig, create_video_model
from videokd.recipe.config import RunConfig
from videokd.recipe.teachers import PeerTeacher
from videokd.recipe.teaching import TeacherParts, load_teacher
from videokd.recipe.trained import without_pretraining
from videokd.types import ClassNames, InputSpec

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SEED_OF_WEIGHTS = 1
_SEED_OF_PROJECTIONS = 2
_SEED_OF_PEER = 3
_SEED_OF_PEER_PROJECTIONS = 4


def create_model(
    config: RunConfig, classes: ClassNames, *, use: int = _SEED_OF_WEIGHTS
) -> tuple[VideoModel, LoadReport | None]:
    """The network to train with its first weights, and what was matched if some were loaded.

    The first weights depend on the seed and the network alone, so a control and a student of one
    seed start equal; networks of another `use` start otherwise.

    Raises:
        UserError: whatever is wrong with the weights that `init` names.
    """
    model_config = config.model
    if config.init.weights is not None:
        model_config = without_pretraining(model_config)
    model = create_video_model(
        model_config,
        num_classes=len(classes),
        seed=_derived_seed(config.seed, use),
    )
    if config.init.weights is None:
        return model, None
    return model, load_first_weights(model, config.init, classes)


def build(
    config: RunConfig, fabric: Fabric, *, say: Callable[[str], None] = lambda _: None
) -> Trainer:
    """Turn a recipe into objects: index, networks, objective, loaders, trainer.

    `say` is told what was loaded into the student, and what of the recipe is not used.

    Raises:
        UserError: everything that can be known to be wrong before the first step.
    """
    return build_with_teacher(config, fabric, say=say)[0]


def build_with_teacher(
    config: RunConfig, fabric: Fabric, *, say: Callable[[str], None] = lambda _: None
) -> tuple[Trainer, TeacherParts]:
    """As `build`, and what is known of who teaches."""
    index = read_index(config.data.index)
    with fabric.rank_zero_first(local=True):  # one process of a machine downloads
        first_weights = find_weights(config.init)
    student, load_report = create_model(config, index.classes)
    if load_report is not None:
        say(load_report.summary())
    if config.teacher is not None and not config.uses_teacher:
        say("teacher: all distillation terms have weight 0, so it is not loaded")
    if isinstance(config.teacher, PeerTeacher) and config.uses_teacher:
        learner, peer, teacher = _peers(config, student, index, fabric, say)
    else:
        peer, teacher = None, load_teacher(config, index, fabric, student=student)
        learner = _create_learner(config, student, teacher, index, use=_SEED_OF_PROJECTIONS)
        student.keep_taps(config.objective.student_taps)
    if teacher.teaching is not None:
        teacher.teaching.keep_taps(config.objective.teacher_taps)
    loader = _train_loader(config, index, teacher, fabric)
    _say_unlabelled(config, loader, say)
    trainer = Trainer(
        fabric=fabric,
        learner=learner,
        peer=peer,
        teaching=teacher.teaching,
        loader=loader,
        config=config.train,
        run_dir=config.output_dir,
        seed=config.seed,
        identity={
            "recipe": config.model_dump(mode="json"),
            "class_names": list(index.classes),
            "index": file_digest(config.data.index),
            "teacher": teacher.identity,
            "first_weights": file_digest(first_weights.path) if first_weights else None,
        },
        max_unreadable_pct=config.data.max_unreadable_pct,
        validate=_validation(config, index, fabric),
    )
    _say_never_on(config.objective, trainer.total_steps, say)
    return trainer, teacher


def _say_never_on(objective: ObjectiveConfig, num_steps: int, say: Callable[[str], None]) -> None:
    """In a short training a term may be meant for a moment at which no step is made."""
    for name, term in objective.active_terms.items():
        if num_steps and not any(term.weight_at(step / num_steps) for step in range(num_steps)):
            say(
                f"objective.terms.{name}: none of the {num_steps} steps lies in its schedule, so "
                "it is never on"
            )


def _create_learner(
    config: RunConfig, model: VideoModel, teacher: TeacherParts, index: Index, *, use: int
) -> Learner:
    networks = Networks(
        student_taps=model.tap_shapes,
        teacher_taps=teacher.tap_shapes,
        student_pooled_dim=model.pooled_dim,
        teacher_pooled_dim=teacher.pooled_dim,
        num_classes=len(index.classes),
        num_videos=len(index),
        train_video_ids=_train_video_ids(config, index),
        student_attends=model.attention is not None,
        teacher_attends=teacher.attends,
    )
    return Learner(
        model, Objective(config.objective, networks, seed=_derived_seed(config.seed, use))
    )


def _train_video_ids(config: RunConfig, index: Index) -> list[int]:
    """Rows of the index that are trained on, those of the unlabelled split among them."""
    splits = (config.data.train_split, config.data.unlabelled_split)
    return [video_id for split in splits if split is not None for video_id in index.select(split)]


def _peers(
    config: RunConfig,
    student: VideoModel,
    index: Index,
    fabric: Fabric,
    say: Callable[[str], None],
) -> tuple[Learner, Learner, TeacherParts]:
    """The student and a peer, each with the recipe's objective, and what is known of the peer."""
    settings = config.teacher
    assert isinstance(settings, PeerTeacher)
    theirs = config.model_copy(
        update={"model": settings.model or config.model, "init": settings.init}
    )
    _check_same_clips(config.model.input, theirs.model.input)
    with fabric.rank_zero_first(local=True):
        first_weights = find_weights(settings.init)
    peer, load_report = create_model(theirs, index.classes, use=_SEED_OF_PEER)
    if load_report is not None:
        say(f"peer: {load_report.summary()}")
    parts = TeacherParts(
        tap_shapes=peer.tap_shapes,
        pooled_dim=peer.pooled_dim,
        attends=peer.attention is not None,
        identity=file_digest(first_weights.path) if first_weights else None,
    )
    mine = TeacherParts(
        tap_shapes=student.tap_shapes,
        pooled_dim=student.pooled_dim,
        attends=student.attention is not None,
    )
    learner = _create_learner(config, student, parts, index, use=_SEED_OF_PROJECTIONS)
    try:
        other = _create_learner(config, peer, mine, index, use=_SEED_OF_PEER_PROJECTIONS)
    except ConfigError as error:
        raise ConfigError(f"teacher.model, as the student of its peer: {error}") from None
    for network in (student, peer):  # each gives what the other asks for
        network.keep_taps({*config.objective.student_taps, *config.objective.teacher_taps})
    return learner, other, parts


def _check_same_clips(student: InputSpec, peer: InputSpec) -> None:
    """Networks normalise by themselves; all else of their inputs must agree."""
    normalised = {"mean": student.mean, "std": student.std}
    if peer.model_copy(update=normalised) != student:
        raise ConfigError(
            "teacher.model.input: a peer sees the student's own clips; give it the same sampling, "
            "sizes and resample as model.input"
        )


def _train_loader(
    config: RunConfig, index: Index, teacher: TeacherParts, fabric: Fabric
) -> TrainLoader:
    """This process's share of the recipe's training clips."""
    objective = config.objective
    return TrainLoader(
        index,
        config.data,
        student=config.model.input,
        teachers=teacher.inputs,
        cached=teacher.cached,
        batch_size=share_of_batch(config.train, fabric.world_size),
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        require_label=not objective.needs_teacher,
        several_labels=objective.is_multi_label,
    )


def _say_unlabelled(config: RunConfig, loader: TrainLoader, say: Callable[[str], None]) -> None:
    if loader.num_unlabelled:
        say(
            f"data: {loader.num_unlabelled} videos of split {config.data.train_split!r} have no "
            "label; only distillation terms count there"
        )
    if loader.num_hidden:
        say(
            f"data: {loader.num_hidden} videos of split {config.data.unlabelled_split!r} are shown "
            "without their labels"
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
    several_labels: bool = False,
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
        several_labels=several_labels,
    )


def share_of_batch(config: TrainConfig, world_size: int) -> int:
    """Videos of one step that fall to each process."""
    parts = world_size * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"train.batch_size {config.batch_size} cannot be shared among {world_size} processes "
            f"times train.accumulate {config.accumulate}; choose a multiple of {parts}"
        )
    return config.batch_size // world_size


def _validation(
    config: RunConfig, index: Index, fabric: Fabric
) -> Callable[[VideoModel], Validation] | None:
    split = config.data.val_split
    check_clip_length(config.model, config.eval.views)
    config.eval.views.check(config.model.input.sampling)
    if split is None:
        return None
    is_multi_label = config.objective.is_multi_label
    loader = eval_loader(
        config.data,
        config.eval,
        index,
        config.model.input,
        split=split,
        fabric=fabric,
        several_labels=is_multi_label,
    )

    def validate(model: VideoModel) -> Validation:
        scores = score_videos(fabric, model, loader, is_multi_label=is_multi_label)
        if not is_multi_label:
            return Validation(top1_pct=scores.top1_pct, cross_entropy=scores.cross_entropy)
        return MultiLabelValidation(
            top1_pct=scores.top1_pct,
            cross_entropy=scores.cross_entropy,
            mean_average_precision_pct=mean_average_precision_pct(
                scores.probabilities, scores.targets
            ),
        )

    return validate


def _derived_seed(seed: int, use: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0])

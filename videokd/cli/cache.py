"""Teachers' outputs on disk, and what they save."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from videokd.cli.options import (
    DeviceName,
    DeviceOption,
    JsonFlag,
    QuietFlag,
    print_json,
)
from videokd.errors import ConfigError

cache_app = typer.Typer()


@cache_app.command("cache")
def cache_command(
    recipe: Annotated[Path, typer.Argument(help="The student's recipe, with its teacher.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.sub=value, laid over the recipe.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default: the recipe's teacher.cache.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Epochs of draws; default: the recipe's."),
    ] = None,
    logits: Annotated[
        str, typer.Option(help="whole, or top-N: the N largest of each clip.")
    ] = "whole",
    device: DeviceOption = DeviceName.AUTO,
    insist: Annotated[
        bool, typer.Option("--insist", help="Keep what a teacher at chance says.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Run the teacher once over all draws of a recipe and keep what it says. Resumes by itself.

    Features are kept where the recipe's terms compare them. Then train with teacher.cache=FOLDER.
    """
    top_k = _top_k(logits)
    from videokd.experiments.caching import cache_teacher, said_bytes
    from videokd.recipe import load_recipe

    words = ["videokd", "cache", str(recipe), *(overrides or [])]
    words += ["--out", str(out)] if out is not None else []
    words += ["--epochs", str(epochs)] if epochs is not None else []
    words += ["--logits", logits] if top_k is not None else []
    outcome = cache_teacher(
        load_recipe(recipe, overrides or []),
        out,
        num_epochs=epochs,
        top_k=top_k,
        command=shlex.join(words),
        device=device.value,
        insist=insist,
        quiet=quiet,
    )
    if as_json:
        print_json(outcome.to_dict())
        return
    what = "is whole already" if outcome.already_done else "written"
    text = (
        f"{outcome.folder}: {what}: {outcome.num_epochs} epochs, {outcome.num_clips} clips, "
        f"{said_bytes(outcome.num_bytes)} ({outcome.num_bytes} bytes, {outcome.bytes_per_clip} a "
        "clip and its draw)"
    )
    if outcome.num_unreadable:
        text += f", {outcome.num_unreadable} unreadable videos left out"
    typer.echo(f"{text}; train with teacher.cache={outcome.folder}")


def _top_k(logits: str) -> int | None:
    if logits == "whole":
        return None
    count = logits.removeprefix("top-")
    if count == logits or not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"--logits {logits!r} is not known; take whole, or top-10 (any number)")
    return int(count)


def _taps(hint: str) -> tuple[str, str]:
    student_tap, _, teacher_tap = hint.partition(":")
    if not student_tap or not teacher_tap or ":" in teacher_tap:
        raise ConfigError(f"--hint {hint!r} is no STUDENT_TAP:TEACHER_TAP; say stage4:fast_res4")
    return student_tap, teacher_tap


@cache_app.command("cache-cost")
def cache_cost_command(
    out: Annotated[Path, typer.Option(help="Work folder for videos and cache.")] = Path(
        "runs/cache_cost"
    ),
    teacher: Annotated[
        str, typer.Option(help="Of `videokd models`; random weights.")
    ] = "slowfast_r50_8x8",
    student: Annotated[
        str, typer.Option(help="Of `videokd models`; random weights.")
    ] = "tsm_mobilenetv2",
    batch: Annotated[int, typer.Option(min=1, help="Clips a step.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Timed in each turn.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 1,
    hint: Annotated[
        str | None,
        typer.Option(
            metavar="STUDENT_TAP:TEACHER_TAP",
            help="A hint beside the logits, such as stage4:fast_res4, from the cache too.",
        ),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Time a step of plain training, from a cache, and with the teacher online, in rounds."""
    from videokd.experiments.cache_cost import CostPlan, measure_cost
    from videokd.experiments.caching import said_bytes

    plan = CostPlan(
        teacher=teacher,
        student=student,
        batch_size=batch,
        num_steps=steps,
        num_rounds=rounds,
        num_workers=workers,
        hint=None if hint is None else _taps(hint),
    )
    cost = measure_cost(out, plan, device=device.value, quiet=quiet)
    if as_json:
        print_json(cost.to_dict())
        return
    typer.echo(f"the cache takes {said_bytes(cost.cache.bytes_per_clip)} a clip")
    for name, seconds in cost.seconds.items():
        shown = ", ".join(f"{value:.3f}" for value in seconds)
        typer.echo(f"{name:<7} {shown} s a step, one number a round")
    for what, spread, goal in (
        ("from the cache / plain", cost.cached_over_plain, "at most 1.1"),
        ("teacher online / from the cache", cost.online_over_cached, "at least 3"),
    ):
        typer.echo(
            f"{what}: {spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}] (goal: {goal})"
        )

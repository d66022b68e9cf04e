"""The command line. Each command reads its options, calls one function, and prints what came out.

Exit status: 0 done; 1 the work failed (one plain line on stderr); 2 wrong usage. With `--json`,
stdout holds one JSON document and nothing else; progress always goes to stderr. torch is imported
only by the commands that need it.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from videokd import __version__
from videokd.cli.bench import bench_app
from videokd.cli.cache import cache_app
from videokd.cli.data import data_app
from videokd.cli.models import models_app
from videokd.cli.report import report_app
from videokd.cli.reproduce import reproduce_app
from videokd.cli.runs import runs_app
from videokd.errors import UserError
from videokd.progress import speaks_for_all

app = typer.Typer(
    name="videokd",
    help="Distil large video networks into small, fast students, and prove what was gained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(runs_app)
app.add_typer(cache_app)
app.add_typer(bench_app)
app.add_typer(report_app)
app.add_typer(models_app)
app.add_typer(reproduce_app, name="reproduce")

INTERRUPTED = 130
# typer has click within it or beside it, depending on the version; this is its own in both.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"videokd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with one line on stderr, never a traceback."""
    # Importing pytorchvideo compiles a function in a way that torch has deprecated; not our user's
    # to mend.
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
    if not speaks_for_all():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        status = app(args=arguments, standalone_mode=False)
        if status != INTERRUPTED:  # the others may not come to part
            _leave_process_group()
    except _UsageError as error:
        raise SystemExit(_tell_usage(error)) from None
    except UserError as error:
        print(f"videokd: {_one_line(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"videokd: {place}{error.strerror or _one_line(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("videokd: interrupted", file=sys.stderr)
    raise SystemExit(status or 0)


def _leave_process_group() -> None:
    """Part from the other processes of a torchrun in order.

    A process that just ends kills the group's own threads in the middle, and now and then is
    aborted for it, after all its work was done.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _tell_usage(error: Any) -> int:
    """One line like all others; the whole help where a command was given nothing at all."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        command = error.ctx.command_path if error.ctx is not None else "videokd"
        help_hint = f"see `{command} --help`"
        message = _one_line(error.format_message()).replace(": Value error, ", ": ")
        print(f"videokd: {message} ({help_hint})", file=sys.stderr)
    return int(error.exit_code)


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""The command line, called in the process of the test."""

from __future__ import annotations

import pytest

from videokd.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr; what was printed before is dropped."""
    status = 0
    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err

"""The errors that are a user's to mend: one plain line each, shown without a traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """The work cannot go on for a reason that the user can mend.

    The message is one line that says what is wrong, where, and what to do next. The command line
    prints it on stderr and ends with `exit_status`.
    """

    exit_status: int = 1


class ConfigError(UserError):
    """A recipe or an option that cannot be right: unknown key, wrong type, value out of range."""

    exit_status = 2


class UnreadableVideo(UserError):
    """A video that does not decode. Readers raise it; they never return another video instead."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: cannot be read as a video: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableVideo], tuple[Path, str]]:
        # Exceptions pickle by `args`; ours has another signature and crosses worker processes.
        return (UnreadableVideo, (self.path, self.reason))


def first_line(error: BaseException) -> str:
    """The first line of another library's error; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

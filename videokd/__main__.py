"""`python -m videokd` is the `videokd` command."""

from videokd.cli import main

main()

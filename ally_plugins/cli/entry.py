"""Where the program begins: `--version` is answered here, since what parses a command line takes five times as long."""

from __future__ import annotations

import sys

from ally_plugins import __version__

__all__ = ["main"]


def main() -> None:
    """Run the program; it ends with a code of `cli.shell.exits`."""
    # Alone only: with anything beside it, and where nobody takes the answer, the command line is click's to judge.
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        try:
            print(f"ally-plugins, version {__version__}", flush=True)  # noqa: T201 - nothing of anybody's is in it
        except OSError:  # a closed pipe, a full disk: what `run` makes of it
            pass
        else:
            return
    from .shell.main import main as run

    run()

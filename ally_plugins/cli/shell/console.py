"""Rich's console as the commands use it: it leaves texts as they are, and raises what a closed pipe raises."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from rich.console import Console

from ally_plugins.contract.values.compat import override

__all__ = ["make_console"]


class _Console(Console):
    @override
    def on_broken_pipe(self) -> NoReturn:
        """Raise the BrokenPipeError; rich's own way is SystemExit, which ends an event loop wherever it is."""
        self.quiet = True  # what it still holds is dropped
        raise  # noqa: PLE0704 - called while the error is handled


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that leaves text as it is: no markup, no highlighting, no emoji names."""
    stream = sys.stderr if stderr else sys.stdout
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return _Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        no_color=plain,
        # `no_color` alone would leave bold and dim.
        color_system=None if plain else "auto",
    )

"""`python -m ally_plugins.daemon MODULE:CLASS [--name NAME]`: run a plugin's class as a process.

With `--shared` it is the process of a worker, whose hosts are handed to it as descriptors.
"""

from __future__ import annotations

import sys
from typing import Final

USAGE: Final = "usage: python -m ally_plugins.daemon MODULE:CLASS [--name NAME]"


def main(arguments: list[str]) -> None:
    """Run what the command line names; does not return."""
    match arguments:
        case [entry_point] if not entry_point.startswith("-"):
            name = None
        case [entry_point, "--shared"] if not entry_point.startswith("-"):
            from .sharing import run_shared

            run_shared(entry_point)
        case [entry_point, "--name", name] if not entry_point.startswith("-"):
            pass
        case _:
            sys.exit(USAGE)  # code 1, with the text on stderr
    from .running import run

    run(entry_point, name=name)


if __name__ == "__main__":
    main(sys.argv[1:])

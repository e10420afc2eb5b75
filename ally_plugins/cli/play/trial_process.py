"""One version of a plugin tried, in a process of its own: no interpreter has two versions of a module.

It reads what to do from its standard input, one JSON object, and writes what came of it as the last line.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import AllyError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["main"]


def main() -> None:
    """Try the version that this interpreter finds first."""
    order: Mapping[str, Any] = json.load(sys.stdin)
    # A plugin that prints must not write the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.signals import run
    from ally_plugins.replay.trial import try_version

    try:
        home, is_trusted = Home(order["app"], order["home"]), order["is_trusted"] is True
        trying = try_version(home, order["name"], order["files"], is_trusted=is_trusted, site=order["site"])
        result = run(trying)
    except AllyError as error:
        result = {"error": str(error)}
    answer.write(json.dumps(result) + "\n")
    answer.flush()


if __name__ == "__main__":
    main()

"""`python -m ally_plugins.testing MODULE:CLASS [--name NAME]`: run every check on a class, and print a line of JSON.

For `ally-plugins check --run`, which has a plugin's code run in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Final

USAGE: Final = "usage: python -m ally_plugins.testing MODULE:CLASS [--name NAME]"


def main(arguments: list[str]) -> None:
    """Run the checks that the command line asks for; raises what importing the class raises."""
    match arguments:
        case [target]:
            name = None
        case [target, "--name", name]:
            pass
        case _:
            sys.exit(USAGE)  # code 1, with the text on stderr
    # What the plugin prints is not ours to read: the line of JSON has the real standard output for itself.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.plugin_class import load_class
    from ally_plugins.testing import check_plugin

    cls = load_class(PluginRecord(name=name or "plugin", state="enabled", entry_point=target))
    report = check_plugin(cls, name=name)
    found = [{"check": each.check, "problem": each.problem, "remarks": each.remarks} for each in report.findings]
    with out:
        out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What an operator can do about what a sandbox has refused a plugin, as a sentence with the command.

The grant is named by the plugin's own process, which is not believed: it is text to be shown, and nothing is granted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.contract.grants import Grant

__all__ = ["refusal_note", "way_to"]

_REFUSED: Final = re.compile(r"permission denied|operation not permitted|\b(EACCES|EPERM)\b", re.IGNORECASE)
"""What the C library, and languages that have words of their own for its errors, say of a refusal."""


def way_to(record: PluginRecord, grant: Grant) -> str:
    """Return how a plugin comes to what only a sandbox keeps from it."""
    if record.requested.covers(grant):
        return f"ally-plugins grant {record.name} {grant.text}"
    return f"its manifest does not ask for that; to run it in no sandbox: ally-plugins place {record.name} process"


def refusal_note(record: PluginRecord, text: str) -> str:
    """Return a note behind what a sandboxed program wrote before it failed; empty where that tells of no refusal."""
    if record.placement != "sandbox" or not _REFUSED.search(text):
        return ""
    command = f"ally-plugins place {record.name} process"
    return f" (it runs in a sandbox, which may have refused that: grant what it asks for, or: {command})"

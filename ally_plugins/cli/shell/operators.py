"""Who may change something: a person or their script, and no plugin's process, whatever it was told to say yes to."""

from __future__ import annotations

from ally_plugins.contract.values.errors import ConsentError

__all__ = ["require_operator"]


def require_operator() -> None:
    """Raise ConsentError where this command was started by a plugin's process, which changes nothing."""
    from ally_plugins.runtime.processes.ancestry import is_plugins_own

    if is_plugins_own():
        raise ConsentError(
            "this command was started by a plugin's process, and plugins change nothing here, with --yes or without; "
            "run it in a terminal of your own"
        )

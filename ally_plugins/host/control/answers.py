"""What a host may answer to a command: looked at before a command uses it, since the host may be of another version.

What it adds is passed over. The answers are made in `live`, `offers` and `tasks`.
"""

from __future__ import annotations

from typing import Any, Final

from ally_plugins.contract.shapes import (
    FLAG,
    INTEGER,
    LENIENT,
    NUMBER,
    TEXT,
    WrongShape,
    described_json,
    or_null,
    several,
)
from ally_plugins.contract.tables import keys, object_of

__all__ = ["answer_problem"]

_PROJECT: Final = keys(
    ("state",),
    project=or_null(TEXT),
    **dict.fromkeys(("state", "reason"), TEXT),
    **dict.fromkeys(("pid", "restarts", "sessions"), INTEGER),
)
_PLUGIN: Final = keys(
    ("name",),
    **dict.fromkeys(("name", "placement", "state", "reason"), TEXT),
    **dict.fromkeys(("since", "delivered", "dropped", "crashes", "pid", "restarts"), INTEGER),
    by_code=FLAG,
    projects=several(object_of(_PROJECT)),
)
_STATUS: Final = keys(
    ("pid", "app"),
    **dict.fromkeys(("app", "python"), TEXT),
    **dict.fromkeys(("pid", "started", "sessions"), INTEGER),
    is_starting=FLAG,
    plugins=several(object_of(_PLUGIN)),
)
_CHANGE: Final = keys(("state",), **dict.fromkeys(("plugin", "did", "state", "reason"), TEXT), in_effect=FLAG)
_HOOK_COSTS: Final = keys(
    ("hook", "calls"), hook=TEXT, calls=INTEGER, **dict.fromkeys(("p50", "p95", "longest", "seconds"), NUMBER)
)
_COSTS: Final = keys(
    ("name",),
    **dict.fromkeys(("name", "version", "state"), TEXT),
    **dict.fromkeys(("events", "dropped", "restarts", "messages", "crashes", "refused"), INTEGER),
    **dict.fromkeys(("memory", "cpu"), or_null(NUMBER)),
    hooks=several(object_of(_HOOK_COSTS)),
)
_USAGE: Final = keys(
    ("pid", "plugins"), app=TEXT, **dict.fromkeys(("pid", "started"), INTEGER), plugins=several(object_of(_COSTS))
)
_OFFER: Final = keys(("kind", "name"), **dict.fromkeys(("kind", "name", "description"), TEXT), agent=FLAG)
_LINE: Final = keys(
    ("n", "at", "text"), text=TEXT, out=FLAG, isCut=FLAG, **dict.fromkeys(("n", "at", "bytes"), INTEGER)
)
_TASK_KEYS: Final = {
    **dict.fromkeys(("id", "plugin", "name", "session", "state", "reason", "message"), TEXT),
    **dict.fromkeys(("started", "ended"), INTEGER),
    "progress": NUMBER,
}
_ANSWERS: Final = {
    "status": _STATUS,
    "usage": _USAGE,
    "apply": _CHANGE,
    "restart": _CHANGE,
    "release": _CHANGE,
    "offers": keys(offers=several(object_of(_OFFER))),
    "wire": keys(("lines", "last"), lines=several(object_of(_LINE)), **dict.fromkeys(("last", "missed"), INTEGER)),
    "tasks": keys(tasks=several(object_of(keys(("id", "state"), **_TASK_KEYS)))),
    "cancel_task": keys(("id", "state"), **_TASK_KEYS, was_running=FLAG),
}


def answer_problem(method: str, result: Any) -> str | None:
    """Return what is wrong with an answer, None when nothing is."""
    if type(result) is not dict:
        return f"it is {described_json(result)}; expected an object"
    try:
        if method in _ANSWERS:
            _ANSWERS[method].read(result, "", LENIENT)
    except WrongShape as wrong:
        return f"{wrong.path} {wrong.problem}"
    return None

"""Words of errors: what was found, and the nearest of what was expected."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["describe", "is_plain_text", "nearest", "note_argument", "suggest"]

_SHOWN: Final = 60  # characters of a value in an error: enough to know it by, and the line stays one
_INT64: Final = 2**63


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Return the option that `word` was most likely meant to be, or None."""
    import difflib  # only when something is wrong already

    by_folded = {option.lower().replace("-", "_"): option for option in options}
    # Cut: difflib takes quadratic time, and the word may be a stranger's.
    folded = word[:200].lower().replace("-", "_")
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def suggest(word: str, options: Collection[str]) -> str:
    """Return the end of an error text: the nearest option, or all of them when none is near."""
    found = nearest(word, options)
    if found is not None:
        return f"did you mean {found!r}?"
    return f"expected one of {', '.join(sorted(options))}" if options else "expected nothing here"


def note_argument(error: BaseException) -> None:
    """Have the traceback of a misspelt argument of an attrs class say which one was meant; others stay as they are.

    Python suggests names and attributes by itself, and arguments from 3.13 on.
    """
    # By its type alone: nothing of a plugin's own error is called here, which could fail or wait in turn.
    if type(error) is not TypeError or not error.args or type(error.args[0]) is not str or error.__traceback__ is None:
        return
    import re  # only when something is wrong already

    found = re.fullmatch(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", error.args[0])
    if found is None or getattr(error, "__notes__", None):
        return
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    # As the line that called it knows the class, by its own name or as an attribute of a module.
    near = [trace.tb_frame.f_locals, trace.tb_frame.f_globals]
    spaces = [*near, *(vars(each) for each in near[1].values() if type(each) is ModuleType)]
    made = next((space[found[1]] for space in spaces if found[1] in space), None)
    if type(made) is type and (fields := vars(made).get("__attrs_attrs__")):
        error.add_note(suggest(found[2], [each.alias for each in fields if each.init]))


def is_plain_text(text: str) -> bool:
    """Return whether `text` is one line that a terminal shows as it is: no control or direction characters."""
    return text.isprintable()


def describe(value: object) -> str:
    """Return a short word for what was found, as TOML would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "a very large integer"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"

"""Calls that would keep a mark: `TOKEN=[redacted:...]` in a file puts the key that stood there out of the world.

What only sends or prints a mark fails at worst, so it runs. Tools have other names with each agent; a call is judged by
the shape of its arguments: a path beside a text, or a command that redirects, edits in place or runs code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .pattern import MARK

__all__ = ["find_kept"]

_WORDS: Final = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_WRITERS: Final = {"write", "edit", "patch", "append", "save", "insert", "replace"}
"""Words in the names of tools that write files. Todos are no files."""

_PATHS: Final = {
    "path",
    "file_path",
    "filepath",
    "filename",
    "file",
    "notebook_path",
    "target_file",
    "destination",
    "uri",
}
_SOUGHT: Final = re.compile(r"(?i)old|pattern|query|search|regex|find|glob")
"""Names of arguments that say what is there already: a mark may be looked for, and be replaced."""

_COMMANDS: Final = {"command", "cmd", "script", "code", "args", "argv", "input", "stdin"}
_WRITES: Final = re.compile(
    r"""(?<![-=<>0-9&])[0-9&]?>{1,2}+\|?+(?!\s{0,3}(?:/dev/(?:null|stdout|stderr)\b|&[0-9]))|<<"""
    r"""|\b(?:tee|dd|patch|sponge|ed|ex|install|truncate)\b|\b(?:sed|perl|ruby|awk|gawk|yq|jq)\b[^\n|;]{0,80}\s-{1,2}i"""
    r"""|\b(?:python[0-9.]*|node|deno|bun|ruby|perl|php|lua)\b[^\n|;]{0,80}\s-{1,2}[a-z]{0,6}(?:[ecpr]|eval|exec|print)\b"""
    r"""|\b(?:config(?:ure)?|secrets?|env|variables?|credentials?|kv|ssm|secretsmanager)\b[^\n|;]{0,60}\b(?:set|add|create|put|store|import|update|write)"""
    r"""|\b(?:set|create)\s(?:secret|env|variable|configmap)s?\b|\b(?:Set|Add|Out|New)-(?:Content|File|Item)\b"""
)
"""What in a command keeps what it was given: redirections, editors, code, `secret set`, `config add` and the like."""


def find_kept(tool_name: str, arguments: Mapping[str, Any]) -> str | None:
    """Return the name of the argument whose mark the call would keep, None when it would keep none."""
    words = {word.lower() for word in _WORDS.findall(tool_name)}
    writes = ("todo" not in words and not words.isdisjoint(_WRITERS)) or not _PATHS.isdisjoint(
        map(str.lower, arguments)
    )
    return next((name for name, value in arguments.items() if _keeps(name, value, writes=writes)), None)


def _keeps(name: str, value: Any, *, writes: bool) -> bool:
    if name.lower() in _PATHS or not any(map(MARK.search, _texts(name, value))):
        return False
    return writes or (name.lower() in _COMMANDS and any(_WRITES.search(text) for text in _texts(name, value)))


def _texts(name: str, value: Any) -> Iterator[str]:
    """Yield the texts in an argument, but for those that say what is there already; names of fields are texts too."""
    if _SOUGHT.search(name):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for field, item in value.items():
            yield field
            yield from _texts(field, item)
    elif isinstance(value, (list, tuple)):
        yield " ".join(item for item in value if isinstance(item, str))
        for item in value:
            if not isinstance(item, str):
                yield from _texts(name, item)

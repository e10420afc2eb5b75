"""Whether a request to the model begins as the one before it did, and whose word it was when it does not.

A provider's prompt cache holds what requests have in common from their first byte on, so a change costs whatever stands
behind it. Texts are compared by their digests. What was sent before, and what a change cost, is kept by
`host.sessions.prompt_prefixes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeVar

from attrs import field, frozen

__all__ = ["PrefixChange", "PromptPart", "SentPrompt", "digest_of", "find_change", "uncached_tokens", "with_added"]

T = TypeVar("T")

_NOBODY: Final[Mapping[str, str]] = {}


def digest_of(*texts: str) -> bytes:
    """Return the digest of a part: equal for equal texts, and no text can be read from it."""
    found = blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "big") + encoded)  # so that no two lists of texts are one
    return found.digest()


@frozen
class PromptPart:
    """A part of what is sent, by its name for people. `plugin` was the last to add or change it.

    `own` is the host's part before that, None for what a plugin has added. `key` is what it goes by at each request.
    """

    name: str
    digest: bytes
    plugin: str | None = None
    own: bytes | None = None
    key: str = ""


@frozen
class SentPrompt:
    """The parts of one request in the order in which the model reads them, without what is volatile at its end.

    `own` are the host's own parts, before plugins; `dropped` has keys of what a plugin took out, with its name.
    """

    parts: tuple[PromptPart, ...]
    own: tuple[bytes, ...] = ()
    dropped: Mapping[str, str] = field(default=_NOBODY)


@frozen
class PrefixChange:
    """A plugin has changed what requests begin with: its name, that of the part, and the part's place from 0."""

    plugin: str
    part: str
    place: int


def find_change(before: SentPrompt, now: SentPrompt, *, may_grow: bool) -> PrefixChange | None:
    """Return where a request departs from the one before it through a plugin; None when it does not, or by the host.

    `may_grow` says that nothing of the request comes behind these parts, so that more of them at the end are no change;
    fewer never are one there, since the cache holds what is left.
    """
    old, new = before.parts, now.parts
    place = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a.digest != b.digest), None)
    if place is None:
        if may_grow or len(old) == len(new):
            return None
        place = min(len(old), len(new))
    gone = old[place] if place < len(old) else None
    come = new[place] if place < len(new) else None
    part, plugin = _blame(gone, come, before, now, place)
    return PrefixChange(plugin, part.name, place) if part is not None and plugin is not None else None


def _blame(
    gone: PromptPart | None, come: PromptPart | None, before: SentPrompt, now: SentPrompt, place: int
) -> tuple[PromptPart | None, str | None]:
    """Return the part that departs, and the plugin whose word it is, None for the host's own.

    The first part that differs may be one that moved, since another was taken out or put in before it.
    """
    is_taken_out = come is None or any(part.digest == come.digest for part in before.parts[place + 1 :])
    if gone is not None and is_taken_out:
        return gone, now.dropped.get(gone.key) or gone.plugin
    is_put_in = gone is None or any(part.digest == gone.digest for part in now.parts[place + 1 :])
    if come is not None and is_put_in:
        return come, come.plugin or before.dropped.get(come.key)
    if gone is None or come is None:
        return None, None
    if gone.own is not None and come.own is not None and gone.own != come.own and gone.own not in now.own:
        return come, None  # the host's own is another one
    return come, come.plugin or now.dropped.get(gone.key) or gone.plugin or before.dropped.get(come.key)


def with_added(parts: Iterable[T], added: Sequence[tuple[str | None, T]], key: Callable[[T], str]) -> list[T]:
    """Return the parts with those that a plugin had added to the request before, each behind what it followed then.

    That is named by its key, None for the first; where it is gone, so is what followed it.
    """
    behind: dict[str | None, list[T]] = {}
    for anchor, part in reversed(added):  # the first is taken from the end first
        behind.setdefault(anchor, []).append(part)
    made: list[T] = []
    stack = [*reversed(list(parts)), *behind.pop(None, ())]
    while stack:
        part = stack.pop()
        made.append(part)
        # Taken out, so that it ends although two parts have one key.
        stack += behind.pop(key(part), ())
    return made


def uncached_tokens(total_before: int | None, cached_now: int | None) -> int | None:
    """Return how many tokens of the request before this one were not read from a cache; None when nobody counted."""
    return None if total_before is None else max(0, total_before - (cached_now or 0))

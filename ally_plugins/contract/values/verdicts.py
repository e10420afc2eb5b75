"""What gates and transforms answer: `Allow`, `Ask`, `Deny`, and `Replace`; None abstains or leaves unchanged.

These are only values; `policy.verdicts` reads what a plugin really returned and combines the votes.
"""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

from attrs import field, frozen

__all__ = ["Allow", "Ask", "Deny", "Replace", "Verdict", "describe_answer"]

T = TypeVar("T")


@frozen
class Allow:
    """This plugin does not object. The host still asks the person what it would ask without plugins."""


@frozen
class Ask:
    """A person must agree first; `reason` is what the person reads. With no person present it is a deny."""

    reason: str


@frozen
class Deny:
    """It must not happen; `reason` is what the agent and the operator read.

    `sensitive` says that what was denied is nothing to be kept, such as a credential: its record then holds a salted
    digest and the shape of the value in its place.
    """

    reason: str
    sensitive: bool = field(default=False, converter=bool, repr=False)  # what is meant as true is never false


@frozen
class Replace(Generic[T]):
    """A transform's new value, in place of the one that it was given."""

    value: T = field()


Verdict: TypeAlias = Allow | Ask | Deny
"""A gate's answer; None (abstain) is written out where it may occur."""


def describe_answer(value: object) -> str:
    """Return a few words on nonsense, with the likely slip; what a string says is not repeated, it may be a secret."""
    if isinstance(value, type):
        return f"the class {value.__name__} (write {value.__name__}(...))"
    if value is True or value is False:
        return repr(value)
    if hasattr(type(value), "__await__"):
        return f"something to be awaited ({type(value).__name__})"
    if type(value) is Allow or type(value) is Ask or type(value) is Deny or type(value) is Replace:
        return f"{type(value).__name__}(...)"
    return f"a value of the type {type(value).__name__}"

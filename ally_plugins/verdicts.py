"""What gates and transforms answer: `Allow`, `Ask`, `Deny`, and `Replace`; None abstains or leaves unchanged.

These are only values; `policy.verdicts` reads what a plugin really returned and combines the votes.
"""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

from attrs import field, frozen

__all__ = ["Allow", "Ask", "Deny", "Replace", "Verdict"]

T = TypeVar("T")


@frozen
class Allow:
    """This plugin has nothing against it. The host's own question to the person is still asked."""


@frozen
class Ask:
    """A person must agree first; `reason` is what the person reads. With no person present it is a deny."""

    reason: str


@frozen
class Deny:
    """It must not happen; `reason` is what the agent and the operator read."""

    reason: str


@frozen
class Replace(Generic[T]):
    """A transform's new value, in place of the one that it was given."""

    value: T = field()


Verdict: TypeAlias = Allow | Ask | Deny
"""A gate's answer; None (abstain) is written out where it may occur."""

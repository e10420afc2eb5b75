"""Looks at the steps of a recording, and values that its records may hold anywhere."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from ally_plugins.replay.steps import PersonMessage, Skipped

if TYPE_CHECKING:
    from ally_plugins.replay.steps import Step

__all__ = ["JSON", "only", "said", "skipped"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def only(steps: list[Step], kind: type[Step]) -> list[Any]:
    """Return the steps of a type."""
    return [step for step in steps if type(step) is kind]


def said(steps: list[Step]) -> list[str]:
    """Return the person's messages."""
    return [step.text for step in only(steps, PersonMessage)]


def skipped(steps: list[Step]) -> Counter[str]:
    """Return how much was left out, by the type it is counted under."""
    return Counter(step.record_type for step in only(steps, Skipped))

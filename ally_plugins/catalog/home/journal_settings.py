"""`[journal]` of `config.toml`: what the journal keeps of conversations, how long, and how much."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from ally_plugins.contract.documents import count
from ally_plugins.contract.shapes import one_of
from ally_plugins.contract.tables import holds
from ally_plugins.policy.keeping import DEFAULT_DAYS, DEFAULT_MEGABYTES, Keeping

__all__ = ["JournalSettings"]


@frozen(kw_only=True)
class JournalSettings:
    """What is not settled is kept in full, for 30 days, up to a gigabyte."""

    content: Literal["full", "metadata"] = field(default="full", metadata=holds(one_of("full", "metadata")))
    """`metadata` keeps names, sizes and digests in the place of prompts, arguments and outputs."""
    keep_days: int = field(default=DEFAULT_DAYS, metadata=holds(count(0)))
    """0 is for ever."""
    max_megabytes: int = field(default=DEFAULT_MEGABYTES, metadata=holds(count(0)))
    """0 is no limit."""

    @property
    def keeping(self) -> Keeping:
        """What the journal is opened with."""
        return Keeping(content=self.content, days=self.keep_days, megabytes=self.max_megabytes)

"""Agrees to what config.toml loosens, as a person does who has edited it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ally_plugins.catalog.plugin_facts import read_settled
from ally_plugins.catalog.settling import agree_to_file

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home


def agree(home: Home) -> None:
    """Do what `ally-plugins review --agree` does."""
    agree_to_file(home, read_settled(home).loosened)

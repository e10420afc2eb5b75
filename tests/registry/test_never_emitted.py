from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ally_plugins import EVENT_TYPES, Home, Host, Manifest
from ally_plugins.catalog.discovery.packages import Discovery, Found
from ally_plugins.catalog.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path


def test_a_subscription_to_what_the_host_never_emits_is_a_warning(tmp_path: Path) -> None:
    async def start(emits: set[str]) -> None:
        async with Host("app", home=tmp_path, discover=False, emits=emits):
            pass

    manifest = Manifest.from_mapping({"events": {"subscribe": ["THOUGHT_COMPLETE", "TOOL_CALL_END"]}})
    found = Found(name="listener", distribution="listener", version="1", entry_point="m:C", manifest=manifest)
    registry = Registry(Home("app", tmp_path), find=lambda: Discovery(found=(found,)))

    asyncio.run(start(set(EVENT_TYPES) - {"THOUGHT_COMPLETE"}))
    expected = "it subscribes to THOUGHT_COMPLETE, which this app's host never emits"
    assert registry.get("listener").warnings == (expected,)

    asyncio.run(start(set(EVENT_TYPES)))
    assert registry.get("listener").warnings == ()

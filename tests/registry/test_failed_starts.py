from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ally_plugins import Home, Host, PluginLoadError
from ally_plugins.catalog.home.failed_starts import failed_starts, remember_starts

if TYPE_CHECKING:
    from pathlib import Path


def test_what_could_not_start_is_known_until_it_starts_or_another_version_is_installed(tmp_path: Path) -> None:
    home = Home("app", tmp_path)
    home.prepare()
    remember_starts(home, [("bad", "1.0", "no module 'x'"), ("good", "1.0", "")])
    assert failed_starts(home, {"bad": "1.0", "good": "1.0"}) == {"bad": "no module 'x'"}
    assert failed_starts(home, {"bad": "1.1"}) == {}

    remember_starts(home, [("good", "1.0", "")])
    assert failed_starts(home, {"bad": "1.0"}) == {"bad": "no module 'x'"}
    remember_starts(home, [("bad", "1.0", "")])
    assert failed_starts(home, {"bad": "1.0"}) == {}


def test_a_damaged_file_and_a_home_that_cannot_be_written_only_lose_the_remark(tmp_path: Path) -> None:
    home = Home("app", tmp_path)
    remember_starts(home, [("bad", "1", "reason")])  # the home is not there
    home.prepare()
    for content in (b"{", b"[1]", b'{"bad": 3}', b'{"bad": ["1"]}'):
        home.failed_starts_file.write_bytes(content)
        assert failed_starts(home, {"bad": "1"}) == {}


def test_a_plugin_given_by_code_leaves_no_word_in_the_home(tmp_path: Path) -> None:
    class Broken:
        def __init__(self, ally: object) -> None:
            raise PluginLoadError(f"not with {ally!r}")

    async def start() -> None:
        async with Host("app", home=tmp_path, plugins={"broken": Broken}):
            pass

    asyncio.run(start())
    assert failed_starts(Home("app", tmp_path), {"broken": ""}) == {}

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.registry import load_class
from ally_plugins.contract.values.errors import PluginLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.sites import Site


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("hurt"):
            del sys.modules[name]


def record(entry_point: str) -> PluginRecord:
    return PluginRecord(name="hurt", state="enabled", entry_point=entry_point)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise BaseException", "BaseException"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("raise ValueError('two\\nlines')", "ValueError: two"),
        ("class E(Exception):\n  def __str__(self): raise RuntimeError\nraise E", "its text cannot be shown"),
        ("def f(): f()\nf()", "RecursionError"),
        ("Plugin: int", "has no attribute 'Plugin'"),
        ("def __getattr__(name): raise SystemExit(name)", "SystemExit"),
        ("\x00", "SyntaxError" if sys.version_info >= (3, 12) else "null bytes"),
    ],
)
def test_whatever_an_import_does_is_one_load_error(site: Site, code: str, reason: str) -> None:
    site.write("hurt.py", code)
    with pytest.raises(PluginLoadError) as caught:
        load_class(record("hurt:Plugin"))
    assert caught.value.plugin == "hurt"
    assert reason in str(caught.value)
    assert "'hurt:Plugin'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_line_that_failed_is_named(site: Site) -> None:
    site.write("hurt.py", "\n\n1 / 0\n")
    with pytest.raises(PluginLoadError) as caught:
        load_class(record("hurt:Plugin"))
    assert f"({site.path / 'hurt.py'}, line 3)" in str(caught.value)


def test_an_interrupt_is_the_persons(site: Site) -> None:
    site.write("hurt.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_class(record("hurt:Plugin"))


@pytest.mark.parametrize("entry_point", ["", "hurt", ":Plugin", "hurt:", "hurt: [extra]"])
def test_an_entry_point_of_another_form_is_a_load_error(entry_point: str) -> None:
    with pytest.raises(PluginLoadError, match="MODULE:CLASS"):
        load_class(record(entry_point))


@pytest.mark.parametrize("entry_point", ["hurt:Plugin.Inner", "hurt : Plugin.Inner [a, b]", "hurt:Plugin.Inner [a]"])
def test_what_the_entry_point_names_is_returned(site: Site, entry_point: str) -> None:
    site.write("hurt.py", "class Plugin:\n  class Inner: pass\n")
    assert load_class(record(entry_point)).__qualname__ == "Plugin.Inner"

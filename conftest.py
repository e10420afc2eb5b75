"""What every test and every code block of the docs gets: a home of its own, and nothing of the operator's."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

if TYPE_CHECKING:
    from pathlib import Path

# Its tests lie in a folder of its name, which pytest would take for the package if that were not there already.
with contextlib.suppress(ImportError):
    import ally_plugins_contrib  # noqa: F401


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty ALLY_HOME of this test's own; the operator's real one is never read or written."""
    folder = tmp_path_factory.mktemp("home", numbered=True)
    monkeypatch.setenv("ALLY_HOME", str(folder))
    monkeypatch.delenv("ALLY_PLUGINS", raising=False)
    return folder


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"],  # `**` is one folder to some Pythons
    fixtures=["home"],
).pytest()


def pytest_configure() -> None:
    """Let programs that tests start be ended: a run in the background, or by nohup, hands down ignored signals."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)  # Windows has neither
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

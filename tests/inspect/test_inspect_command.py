"""The command: how it lets the browser in, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.kit.commands import PROGRAM, end, environment_for, run_command
from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home


def test_it_refuses_a_session_or_an_id_that_was_never_recorded(home: Home, record: Callable[..., None]) -> None:
    record(events=10)
    for words in (("--session", "s-none"), ("m-none",)):
        result = run_command("--home", str(home.path), "inspect", "--no-open", *words, code=1)
        assert "the journal has no" in result.stderr
    assert "Example:" in run_command("inspect", "--help").stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs a browser that is a shell script, and SIGHUP")
def test_the_browser_gets_the_link_by_a_file_of_its_owner_and_all_ends_with_the_terminal(
    home: Home, record: Callable[..., None], tmp_path: Path
) -> None:
    record(events=10)
    given = tmp_path / "given"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {given}.new && mv {given}.new {given}\n')
    browser.chmod(0o755)
    env = environment_for(home.path, tmp_path) | {"BROWSER": f"{browser} %s"}
    running = subprocess.Popen([*PROGRAM, "inspect", "--json"], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        link = json.loads(running.stdout.readline())["link"]
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/\?token=[\w-]{43}", link)
        wait_until(given.exists, lambda: "the start of the browser")
        (file,) = home.run_dir.glob("inspect-*.html")
        assert given.read_text().strip() == file.as_uri()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert link in file.read_text()
        with urllib.request.urlopen(link, timeout=30) as answer:  # noqa: S310 - it is http
            assert answer.status == 200
        running.send_signal(signal.SIGHUP)
        assert running.wait(30) == 0
        assert not file.exists()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(link, timeout=30)  # noqa: S310
    finally:
        end(running)

"""Homes whose files are torn, strange or open to others: what the commands say, and that what they say leads out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Operator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, owners and modes are POSIX's")


def texts(operator: Operator) -> str:
    return " ".join(each["text"] for each in operator.ask("doctor", code=1)["findings"] if each["level"] == "problem")


def test_an_emptied_config_is_said_by_every_command_until_it_is_answered(enabled: Operator) -> None:
    enabled.home.config_file.write_text("")
    for command in (["list"], ["review"], ["info", "loop-warner"]):
        assert "config.toml" in enabled.run(*command, code=2).stderr
    assert "was the file emptied or cut off?" in texts(enabled)
    assert enabled.run("audit", "verify").stdout.startswith("the audit holds")
    enabled.run("disable", "loop-warner")
    assert "disabled" in enabled.run("list").stdout


def test_an_emptied_config_is_mended_by_agreeing_again(enabled: Operator) -> None:
    enabled.home.config_file.unlink()
    enabled.run("enable", "loop-warner", "--yes")
    (plugin,) = enabled.ask("list")["plugins"]
    assert plugin["state"] == "enabled"


def test_a_torn_quarantine_is_said_and_release_lets_out(enabled: Operator) -> None:
    enabled.home.quarantine_file.write_text('{"loop-warner": "5 cra')
    shown = enabled.run("list").stdout
    assert "quarantined" in shown
    assert f"problem: {enabled.home.quarantine_file} is damaged" in shown
    assert "quarantine.json is damaged" in texts(enabled)
    assert "ally-plugins release loop-warner" in enabled.run("review").stdout
    enabled.run("release", "loop-warner")
    assert "quarantine.json" not in enabled.run("list").stdout
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"
    assert [each["plugin"] for each in enabled.records("release")] == ["loop-warner"]


def test_a_quarantine_that_is_a_pipe_holds_nobody_up_and_release_replaces_it(enabled: Operator) -> None:
    os.mkfifo(enabled.home.quarantine_file)
    assert "named pipe" in enabled.run("list").stdout
    enabled.run("release", "loop-warner")
    assert enabled.home.quarantine_file.is_file()


def test_a_quarantine_that_is_a_folder_is_not_released_before_it_is_moved_away(enabled: Operator) -> None:
    enabled.home.quarantine_file.mkdir()
    said = enabled.run("release", "loop-warner", code=2).stderr
    assert "it is a folder, expected a file or nothing; move it away: mv " in said


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="SKIPPED: only root gives files to others")
def test_doctor_leaves_what_another_user_laid_beside_the_journal_as_it_is(enabled: Operator) -> None:
    beside = enabled.home.path / "journal.db-wal"
    beside.write_bytes(b"x" * 4152)
    os.chown(beside, 65534, 65534)
    assert "journal.db-wal' cannot be used: it belongs to the user 65534" in texts(enabled)
    assert beside.stat().st_uid == 65534
    assert beside.read_bytes() == b"x" * 4152


def test_a_head_that_is_a_pipe_is_said_at_once_and_the_way_out_is_a_command(enabled: Operator) -> None:
    head = enabled.home.audit_head_file
    head.unlink()
    os.mkfifo(head)
    said = enabled.run("audit", "verify", code=1).stdout
    assert str(head) in said
    assert "a named pipe and not a regular file" in said
    assert "audit.head" in texts(enabled)
    assert "audit.head" in enabled.run("disable", "loop-warner", code=3).stderr
    command = re.search(r"mv \S+ \S+away", said)
    assert command is not None
    subprocess.run(shlex.split(command[0]), check=True)
    enabled.run("disable", "loop-warner")
    assert enabled.run("audit", "verify").stdout.startswith("the audit holds")


def test_a_consent_that_is_a_link_is_said_and_not_written_through(enabled: Operator) -> None:
    elsewhere = enabled.site / "elsewhere.toml"
    enabled.home.consent_file.rename(elsewhere)
    enabled.home.consent_file.symlink_to(elsewhere)
    before = elsewhere.read_text()
    for command in (["list"], ["enable", "loop-warner", "--yes"], ["release", "loop-warner"]):
        said = enabled.run(*command, code=1).stderr
        assert f"{enabled.home.consent_file} cannot be read: it is a link and not a regular file" in said
    assert "consent.toml" in texts(enabled)
    assert elsewhere.read_text() == before
    enabled.home.consent_file.unlink()
    enabled.run("enable", "loop-warner", "--yes")
    assert elsewhere.read_text() == before
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"


@pytest.mark.parametrize("name", ["", "config.toml", "consent.toml", "quarantine.json"])
def test_what_everybody_can_write_is_named_with_its_remedy(enabled: Operator, name: str) -> None:
    enabled.home.quarantine_file.write_text("{}")
    path = enabled.home.path / name if name else enabled.home.path
    mode = path.stat().st_mode
    path.chmod(0o777)
    code = {"config.toml": 2, "": 2, "consent.toml": 1, "quarantine.json": 0}[name]
    shown = enabled.run("list", code=code)
    assert f"mend it: chmod o-w {path}" in shown.stdout + shown.stderr
    assert str(path) in texts(enabled)
    path.chmod(mode)
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"

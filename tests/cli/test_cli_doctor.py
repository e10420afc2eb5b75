from __future__ import annotations

import json
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.bounded_calls import BoundedCalls
from ally_plugins.catalog.home import filesystems, system_keyring
from ally_plugins.cli.look.process_checks import platform_weaknesses
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator


def findings(operator: Operator, level: str, code: int) -> list[dict[str, Any]]:
    told = operator.ask("doctor", code=code)
    assert told["ok"] is (code == 0)
    return [each for each in told["findings"] if each["level"] == level]


def only(operator: Operator, level: str = "problem", code: int = 1) -> dict[str, Any]:
    (found,) = findings(operator, level, code)
    return found


def test_a_fresh_home_is_healthy_and_the_limits_are_said(operator: Operator) -> None:
    shown = operator.run("doctor").stdout
    assert "do not contain it" in shown
    assert "problem" not in shown
    assert "warning" not in shown


def test_a_home_over_a_network_is_a_warning_with_what_to_do(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.home.path.mkdir(parents=True, exist_ok=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {operator.home.path} rw - nfs4 filer:/ rw\n")
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)
    found = only(operator, "warning", 0)
    assert (found["topic"], "nfs4" in found["text"]) == ("home", True)
    assert "ALLY_HOME" in found["remedy"]


def test_an_enabled_plugin_and_a_journal_are_healthy(enabled: Operator) -> None:
    assert findings(enabled, "warning", 0) == []
    assert "their chain holds" in enabled.run("doctor").stdout


def test_a_wrong_configuration_stops_no_other_check(enabled: Operator) -> None:
    enabled.home.config_file.write_text("[plugins.loop-warner]\nenabeld = true\n")
    assert "enabeld" in only(enabled)["text"]
    assert "their chain holds" in enabled.run("doctor", code=1).stdout


def test_a_home_that_others_may_change_is_a_problem_with_its_remedy(enabled: Operator) -> None:
    enabled.home.path.chmod(0o777)
    assert only(enabled)["remedy"] == f"chmod 700 {enabled.home.path}"
    enabled.home.path.chmod(0o755)
    assert "others may read" in only(enabled, "warning", 0)["text"]


def test_secrets_that_others_may_read_are_a_problem(enabled: Operator) -> None:
    enabled.run("config", "loop-warner", "token", text="hunter2")
    enabled.home.secrets_file.chmod(0o644)
    found = only(enabled)
    assert found["remedy"] == f"chmod 600 {enabled.home.secrets_file}"
    assert "hunter2" not in json.dumps(found)


def test_a_keyring_that_is_installed_is_not_advised_but_what_it_lacks_is(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SimpleNamespace(priority=0.5)  # as keyrings.alt has them
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_keyring=lambda: plain))
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    (found,) = [each for each in findings(enabled, "note", 0) if each["topic"] == "secrets"]
    assert "the package keyring is installed and" in found["text"]
    assert "pip install" not in found["remedy"]
    assert "keyring diagnose" in found["remedy"]


def test_a_keyring_that_does_not_answer_is_a_problem_and_stops_no_other_check(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    monkeypatch.setattr(system_keyring, "KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(system_keyring, "_calls", BoundedCalls("ally-keyring"))
    monkeypatch.setattr(system_keyring, "_found", opened.wait)
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    try:
        problems = findings(enabled, "problem", 1)
        assert [each["text"] for each in problems if "did not answer within 0.05 s" not in each["text"]] == []
        assert {each["topic"] for each in problems} == {"plugin loop-warner", "secrets"}
        assert "their chain holds" in enabled.run("doctor", code=1).stdout
    finally:
        opened.set()


def test_an_enabled_plugin_that_is_broken_is_a_problem_and_its_gates_are_named(enabled: Operator) -> None:
    enabled.install(manifest="[permisions]\n")
    assert "permisions" in only(enabled)["text"]
    assert "gates deny" in only(enabled, "warning")["text"]


def test_a_broken_plugin_that_nobody_enabled_is_a_warning(operator: Operator) -> None:
    operator.install(manifest="[permisions]\n")
    assert "permisions" in only(operator, "warning", 0)["text"]


def test_a_cycle_is_a_problem_that_names_its_members(operator: Operator) -> None:
    for name, after in (("guard", "other"), ("other", "guard")):
        operator.install(name, f'after = ["{after}"]\n')
        operator.run("enable", name, "--yes")
    found = only(operator)
    assert "'guard' before 'other'" in found["text"]
    assert found["remedy"].startswith("ally-plugins disable ")


def test_neighbours_and_sources_that_are_missing_are_noted(operator: Operator) -> None:
    operator.install(manifest='after = ["nobody"]\n[events]\nsubscribe = ["ghost:*"]\n')
    operator.run("enable", "loop-warner", "--yes")
    notes = " ".join(each["text"] for each in findings(operator, "note", 0))
    assert "after 'nobody', which is not enabled" in notes
    assert "no plugin 'ghost' is installed" in notes


def test_two_that_change_the_same_are_noted(operator: Operator) -> None:
    for name in ("guard", "other"):
        operator.install(name, '[permissions]\ntransform = { on = ["user_message"], reason = "r" }\n')
        operator.run("enable", name, "--yes")
    notes = [each["text"] for each in findings(operator, "note", 0) if each["topic"] == "conflicts"]
    assert notes == ["guard and other may all change the same: transform:user_message; the last one wins"]


@pytest.mark.parametrize("cut", [100, 5000])
def test_a_damaged_journal_is_a_problem(enabled: Operator, cut: int) -> None:
    enabled.home.journal_file.write_bytes(enabled.home.journal_file.read_bytes()[:cut])
    assert only(enabled)["topic"] == "journal"


def test_what_is_shown_is_inert(operator: Operator) -> None:
    operator.write("x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\x1b[31m\nVersion: 1\n")
    operator.write("x-1.dist-info/entry_points.txt", "[ally.plugins]\nBad\x1b[31m = y:Z\n")
    shown = operator.run("doctor", code=1).stdout
    assert shown.replace("\n", "").isprintable()


def test_what_the_environment_leaves_out_is_noted(enabled: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLY_PLUGINS", "none")
    assert "ALLY_PLUGINS does not name it" in " ".join(each["text"] for each in findings(enabled, "note", 0))


def test_what_could_not_be_imported_is_known_to_list_and_doctor_until_it_starts(enabled: Operator) -> None:
    sound = (enabled.site / "loop_warner" / "__init__.py").read_text()
    enabled.write("loop_warner/__init__.py", "import no_such_module\n")
    enabled.run("call", "loop-warner", "shout", "--args", '{"text": "hi"}', code=1)

    shown = enabled.run("list").stdout
    assert "failed to start" in shown
    assert "No module named 'no_such_module'" in shown
    assert "no_such_module" in only(enabled)["text"]
    (listed,) = enabled.ask("list")["plugins"]
    assert listed["state"] == "enabled"
    assert "no_such_module" in listed["failure"]

    enabled.write("loop_warner/__init__.py", sound)
    enabled.run("call", "loop-warner", "shout", "--args", '{"text": "hi"}')
    assert enabled.ask("list")["plugins"][0]["failure"] == ""


def test_plugins_in_whose_code_a_host_has_ended_lately_are_named(enabled: Operator) -> None:
    week = 7 * 24 * 3600 * 1000
    data = {"pid": 7, "running": "ally_gate_tool_call", "was_blocking": False}
    journal = Journal.open(enabled.home.journal_file, head=enabled.home.audit_head_file)
    for at, plugin in ((now_ms() - 1000, "loop-warner"), (now_ms() - week - 1000, "other")):
        journal.append_blocking(Record("lost_host", at, plugin, None, None, data))
    journal.close_blocking()
    found = only(enabled, "warning", 0)
    assert "host 7 ended without stopping while ally_gate_tool_call ran in it" in found["text"]
    assert found["remedy"].startswith("ally-plugins place loop-warner sandbox")


def test_what_the_apps_host_does_not_serve_is_said_everywhere(enabled: Operator) -> None:
    enabled.home.prepare()
    enabled.home.write(enabled.home.not_served_file, b'["gate:tool_call"]', 100, durable=False)
    text = "it was granted gate:tool_call, which this app's host does not serve: nobody asks it there"
    assert only(enabled, "warning", 0)["text"] == text
    assert f"warning: loop-warner: {text}" in enabled.run("list").stdout
    (listed,) = enabled.ask("list")["plugins"]
    assert listed["warnings"] == [text]


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_elsewhere_than_on_linux_it_is_said_that_no_plugin_is_forked(platform: str) -> None:
    assert any("none is forked" in text for text in platform_weaknesses(platform))
    assert platform_weaknesses("linux") == []

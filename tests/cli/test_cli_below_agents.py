"""Commands that an agent runs whose hooks reach this home: nothing that it could loosen its guard with is done."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from attrs import evolve
from click.testing import CliRunner

from ally_plugins import Host
from ally_plugins.adapters.coding.client.client_files import lay_client
from ally_plugins.catalog.home import agent_processes
from ally_plugins.catalog.home.agent_processes import HOOK_LOCK, GuardedAgent, GuardedAgents
from ally_plugins.catalog.home.folder import try_lock, unlock
from ally_plugins.cli.shell.state import command
from ally_plugins.journal.process_identity import ProcessIdentity, parent_and_start
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.home.folder import Home

    from .conftest import Operator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process trees are looked at on Linux only")

NAME = "loop-warner"
REFUSED = f"this command was started by claude (process {os.getppid()}), which ally-plugins guards"
WAY_OUT = "an agent loosens nothing here, with --yes or without; run it in a terminal outside the agent"

LOOSENING = [
    ("disable", NAME),
    ("enable", NAME, "--yes"),
    ("enable", NAME, "--only", "tools", "--yes"),
    ("grant", NAME, "tools"),
    ("revoke", NAME, "gate"),
    ("shadow", NAME),
    ("release", NAME),
    ("config", NAME, "limit=1"),
    ("config", NAME, "--unset", "limit"),
    ("place", NAME, "inline"),
    ("env", NAME, "--yes"),
    ("env", NAME, "--remove", "--yes"),
    ("install", "./nothing"),
    ("uninstall", NAME, "--yes"),
    ("prune", "--older-than", "1d", "--yes"),
    ("restart", NAME),
    ("tasks", "--cancel", "t-1"),
    ("connect", "claude"),
    ("disconnect", "claude"),
    ("call", NAME, "shout"),
    ("inspect", "--no-open"),
    ("project", "trust", "--yes"),
    ("project", "untrust"),
]

LOOKING = [
    ("list",),
    ("info", NAME),
    ("review",),
    ("config", NAME),
    ("hosts",),
    ("tasks",),
    ("audit",),
    ("audit", "verify"),
    ("sessions",),
    ("connect", "--status"),
    ("connect", "claude", "--print"),
    ("completion", "bash"),
    ("project",),
]


def parent() -> tuple[int, int]:
    """Return the process above this one, which stands for an agent, and when it started."""
    found = parent_and_start(os.getppid())
    assert found is not None
    return os.getppid(), found[1]


def below_an_agent(home: Home) -> GuardedAgents:
    home.prepare()
    agents = GuardedAgents(home)
    agents.note("claude", *parent())
    return agents


def files_of(home: Home) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (home.config_file, home.consent_file, home.audit_head_file)}


@pytest.mark.parametrize("words", LOOSENING, ids=" ".join)
def test_what_loosens_is_refused_below_an_agent_in_a_sentence_and_nothing_is_changed(
    words: tuple[str, ...], enabled: Operator
) -> None:
    below_an_agent(enabled.home)
    before = files_of(enabled.home)
    shown = enabled.run(*words, code=1).stderr
    assert REFUSED in shown
    assert WAY_OUT in shown
    assert files_of(enabled.home) == before


def test_what_only_looks_is_done_below_an_agent(enabled: Operator) -> None:
    below_an_agent(enabled.home)
    for words in LOOKING:
        enabled.run(*words)


def test_a_command_that_nobody_has_said_of_that_it_only_looks_is_refused(enabled: Operator) -> None:
    below_an_agent(enabled.home)
    ran: list[str] = []

    @command("new-one")
    def new_one(_: Any) -> None:
        ran.append("new")

    @command("list")
    def look(_: Any) -> None:
        ran.append("look")

    home = ["--home", str(enabled.home.path)]
    assert "an agent loosens nothing" in str(CliRunner().invoke(new_one, home).exception)
    assert isinstance(new_one, click.Command)
    assert CliRunner().invoke(look, home).exit_code == 0
    assert ran == ["look"]


def of_another_start(found: ProcessIdentity) -> ProcessIdentity:
    return evolve(found, started=(found.started or 0) + 1)


def of_another_boot(found: ProcessIdentity) -> ProcessIdentity:
    return evolve(found, boot="0" * 8)


@pytest.mark.parametrize("other", [of_another_start, of_another_boot])
def test_a_number_that_another_process_had_before_refuses_nothing(
    other: Callable[[ProcessIdentity], ProcessIdentity], enabled: Operator
) -> None:
    agents = below_an_agent(enabled.home)
    (file,) = agents.folder.iterdir()
    found = GuardedAgent.of_name(file.name)
    assert found is not None
    file.rename(file.with_name(evolve(found, identity=other(found.identity)).name))
    enabled.run("disable", NAME)


def test_what_has_ended_is_forgotten_when_the_next_agent_comes(enabled: Operator) -> None:
    agents = below_an_agent(enabled.home)
    pid, started = parent()
    ended = GuardedAgent("codex", ProcessIdentity.of(pid, started + 1))
    (agents.folder / ended.name).touch()
    GuardedAgents(enabled.home).note("gemini", os.getpid(), parent_and_start(os.getpid())[1])  # type: ignore[index]
    assert sorted(file.name.partition(".")[0] for file in agents.folder.iterdir()) == ["claude", "gemini"]


def test_where_it_cannot_be_seen_which_agents_there_are_nothing_is_changed(enabled: Operator) -> None:
    agents = below_an_agent(enabled.home)
    for file in agents.folder.iterdir():
        file.unlink()
    agents.folder.rmdir()
    agents.folder.write_text("")
    assert "it cannot be seen which agents are connected" in enabled.run("disable", NAME, code=1).stderr
    agents.folder.unlink()
    enabled.run("disable", NAME)


def test_in_another_container_than_the_agents_nothing_is_changed_while_a_host_takes_hooks(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = below_an_agent(enabled.home)
    (file,) = agents.folder.iterdir()
    found = GuardedAgent.of_name(file.name)
    assert found is not None
    there = evolve(found, identity=evolve(found.identity, namespace="pid:[17]"))
    file.rename(file.with_name(there.name))
    monkeypatch.setattr(agent_processes, "_FIRST_NAMESPACE", "pid:[18]")
    descriptor = enabled.home.open_lock(HOOK_LOCK)
    assert try_lock(descriptor)
    assert "was started by claude" in enabled.run("disable", NAME, code=1).stderr
    # The machine itself stands in no container, so that nothing of an agent's in one stands above it.
    monkeypatch.setattr(agent_processes, "_FIRST_NAMESPACE", ProcessIdentity.own().namespace)
    enabled.run("shadow", NAME)
    monkeypatch.setattr(agent_processes, "_FIRST_NAMESPACE", "pid:[18]")
    unlock(descriptor)
    enabled.run("disable", NAME)


def test_an_agent_that_removes_its_file_is_known_to_the_host_that_runs(enabled: Operator) -> None:
    async def main() -> None:
        async with Host(home=enabled.home, discover=False) as host:
            assert host.guarded_agents is not None
            host.guarded_agents.note("claude", *parent())
            for file in host.guarded_agents.folder.iterdir():
                file.unlink()
            host.guarded_agents.folder.rmdir()
            before = files_of(enabled.home)
            done = await asyncio.to_thread(enabled.run, "disable", NAME, code=1)
            assert f"a change was asked for by claude (process {os.getppid()})" in done.stderr
            assert files_of(enabled.home).items() >= {"config.toml": before["config.toml"]}.items()
            host.guarded_agents.note("claude", *parent())
            assert len(list(host.guarded_agents.folder.iterdir())) == 1
            await host.journal.flush()
            (refusal,) = host.journal.reader.last_records(50, kind="refusal")
            data = refusal.data or {}
            assert (data["call"], data["agent"]) == ("control:may_change", "claude")

    go(main())


def test_an_agent_starts_no_host_that_leaves_plugins_out(enabled: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    below_an_agent(enabled.home)
    monkeypatch.setenv("ALLY_PLUGINS", "none")
    assert REFUSED in enabled.run("serve", code=1).stderr


def test_the_hook_client_takes_no_hooks_out_for_an_agent(enabled: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    from ally_plugins.adapters.coding.client import hook_client

    client = lay_client(enabled.home, sys.executable, ("/bin/false",))
    agents = below_an_agent(enabled.home)
    monkeypatch.setattr(sys, "argv", [str(client), "disconnect", "claude"])
    refused = hook_client.disconnect("claude")
    assert refused is not None
    assert refused.startswith(f"this was started by claude (process {os.getppid()})")
    for file in agents.folder.iterdir():
        file.unlink()
    assert "cannot be taken out: FileNotFoundError" in (hook_client.disconnect("claude") or "")

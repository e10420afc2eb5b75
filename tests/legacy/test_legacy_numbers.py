"""Code-Ally's numbers, each in the place where it holds."""

from __future__ import annotations

import inspect

from ally_plugins.bridges.code_ally import limits as numbers
from ally_plugins.bridges.code_ally.plugin import CodeAllyDaemon, CodeAllyTool, Health
from ally_plugins.catalog.environments import build as environments
from ally_plugins.contract import process_spec as daemons
from ally_plugins.host.daemons.transports import restarts_of
from ally_plugins.host.sockets.link import SocketLink
from ally_plugins.runtime.processes.programs import run_program


def default(function: object, name: str) -> object:
    return inspect.signature(function).parameters[name].default  # type: ignore[arg-type]


def test_a_daemon_has_30_seconds_to_start_and_5_to_stop() -> None:
    background = CodeAllyDaemon(command="x")
    assert (background.startup_timeout, background.grace) == (30.0, 5.0)
    assert default(SocketLink.wait_ready, "timeout") == 30.0
    assert (daemons.Timing().startup_timeout, daemons.Timing().shutdown_grace) == (30.0, 5.0)


def test_health_is_looked_at_every_30_seconds_for_5_and_3_times() -> None:
    health = Health()
    assert (health.interval, health.timeout, health.retries) == (30.0, 5.0, 3)
    assert default(SocketLink, "health_timeout") == 5.0


def test_a_daemon_is_restarted_3_times_after_5_10_and_15_seconds() -> None:
    own = daemons.Restarts(delay=numbers.RESTART_DELAY, most=numbers.MAX_RESTARTS)
    restarts = restarts_of(daemons.Daemon(("x",), restarts=own))
    assert [restarts.failed(0.0) for _ in range(4)] == [5.0, 10.0, 15.0, None]


def test_a_call_has_30_seconds_and_an_event_5() -> None:
    assert default(SocketLink.call, "timeout") == 30.0
    assert default(SocketLink, "notification_timeout") == 5.0


def test_an_answer_has_10_megabytes_at_most_and_so_has_the_output_of_a_program() -> None:
    assert default(SocketLink, "max_response") == 10 * 1024 * 1024
    assert default(run_program, "max_output") == 10 * 1024 * 1024


def test_a_program_has_120_seconds_and_5_more_after_sigterm() -> None:
    assert CodeAllyTool(kind="executable", name="x").timeout == 120.0
    assert default(run_program, "grace") == 5.0


def test_a_sockets_path_has_104_characters_at_most() -> None:
    assert numbers.LONGEST_SOCKET_PATH == daemons.LONGEST_SOCKET_PATH == 104


def test_a_virtual_environment_has_60_seconds_and_an_installation_5_minutes() -> None:
    assert environments.CREATE_TIMEOUT == numbers.VENV_TIMEOUT == 60.0
    assert environments.INSTALL_TIMEOUT == numbers.INSTALL_TIMEOUT == 300.0

"""What a daemon sees of the host's environment."""

from __future__ import annotations

import pytest

from ally_plugins.runtime.processes.environment import child_environment

HOST = {
    "PATH": "/bin",
    "HOME": "/home/x",
    "LC_ALL": "C",
    "LANG": "C",
    "TZ": "UTC",
    "OPENAI_API_KEY": "secret",
    "ALLY_TOKEN": "another daemon's",
    "ALLY_HOME": "/state",
    "PYTHONPATH": "/host",
    "PYTHONSTARTUP": "/host/start.py",
    "LD_PRELOAD": "/host.so",
    "HTTPS_PROXY": "http://user:password@proxy",
    "VIRTUAL_ENV": "/venv",
    "SSH_AUTH_SOCK": "/agent",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


def test_a_daemon_sees_only_what_is_on_the_list() -> None:
    assert child_environment(HOST) == {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_ALL": "C",
        "LANG": "C",
        "TZ": "UTC",
        "SHLVL": "1",  # ours: see the test of bash below
    }


def test_what_the_operator_granted_is_passed_on_and_what_is_not_there_is_not_made_up() -> None:
    seen = child_environment(HOST, granted=["OPENAI_API_KEY", "PYTHONPATH", "MISSING"])
    assert (seen["OPENAI_API_KEY"], seen["PYTHONPATH"]) == ("secret", "/host")
    assert "MISSING" not in seen


@pytest.mark.parametrize("name", ["ALLY_TOKEN", "ALLY_HOME", "ally_token"])
def test_the_hosts_own_variables_never_leak_not_even_granted(name: str) -> None:
    assert name not in child_environment({**HOST, name: "host's"}, granted=[name])


def test_what_is_set_for_the_daemon_goes_before_everything() -> None:
    seen = child_environment(HOST, granted=["PATH"], added={"PATH": "/venv/bin", "ALLY_TOKEN": "its own"})
    assert (seen["PATH"], seen["ALLY_TOKEN"]) == ("/venv/bin", "its own")


def test_the_hosts_environment_is_left_as_it_is() -> None:
    before = dict(HOST)
    child_environment(HOST, added={"HOME": "/other"})["PATH"] = "/changed"
    assert before == HOST

from __future__ import annotations

import sys

import pytest

from ally_plugins.catalog.environments import installer as installing
from ally_plugins.catalog.environments.installer import install_command, uninstall_command
from ally_plugins.catalog.environments.tools import Managed
from ally_plugins.contract.values.errors import ConfigError, OperatorError


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "_has_pip", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")


def test_there_must_be_something_to_install() -> None:
    with pytest.raises(ConfigError, match="nothing to install"):
        install_command([])


@pytest.mark.parametrize("names", [[], ["--all"], ["guard", "-r"]])
def test_only_distributions_are_uninstalled(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="nothing to uninstall"):
        uninstall_command(names)


def test_pip_installs_into_the_environment_of_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "_has_pip", lambda: True)
    assert install_command(["guard", "-e", "."])[:3] == (sys.executable, "-m", "pip")
    assert install_command(["guard", "-e", "."])[-4:] == ("install", "guard", "-e", ".")
    assert uninstall_command(["guard"])[-3:] == ("uninstall", "--yes", "guard")


@pytest.mark.usefixtures("without_pip")
def test_without_pip_uv_installs_into_the_same_environment() -> None:
    expected = ("/somewhere/uv", "pip", "install", "--python", sys.executable, "guard")
    assert install_command(["guard"]) == expected
    expected = ("/somewhere/uv", "pip", "uninstall", "--python", sys.executable, "guard")
    assert uninstall_command(["guard"]) == expected


@pytest.mark.usefixtures("without_pip")
def test_without_either_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(OperatorError, match="ensurepip"):
        install_command(["guard"])


def test_the_output_comes_line_by_line_and_the_exit_code_is_the_installers(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{"old": "old 1", "same": "same 1"}, {"new": "new 1", "same": "same 2"}])
    monkeypatch.setattr(installing, "_look", lambda: next(looks))
    lines: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    done = installing._run(Managed((sys.executable, "-u", "-c", code), {}), lines.append)
    assert lines == ["one\n", "two\n"]
    assert done.exit_code == 3
    assert (done.appeared, done.disappeared, done.changed) == ({"new": "new 1"}, {"old": "old 1"}, {"same": "same 2"})


def test_a_fresh_interpreter_says_what_is_installed() -> None:
    assert isinstance(installing._look(), dict)

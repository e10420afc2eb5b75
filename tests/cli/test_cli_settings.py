from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.registry import Registry
from ally_plugins.cli.change.settings import _set
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.contract.values.errors import JournalError

if TYPE_CHECKING:
    from .conftest import Operator

SECRET = "hunter2-is-my-secret"  # noqa: S105 - one to look for


def everything(operator: Operator) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in operator.home.path.rglob("*") if file.is_file()}


def leaks(operator: Operator) -> list[str]:
    return [name for name, content in everything(operator).items() if SECRET.encode() in content]


def test_a_value_is_kept_typed_and_recorded(enabled: Operator) -> None:
    enabled.run("config", "loop-warner", "limit=5")
    settings = enabled.ask("config", "loop-warner")["settings"]
    assert (settings["limit"]["value"], settings["limit"]["source"]) == (5, "config.toml")
    assert enabled.records("setting")[0]["data"] == {"key": "limit", "is_removed": False, "value": "5"}


def test_a_setting_taken_back_has_its_default_again(enabled: Operator) -> None:
    enabled.run("config", "loop-warner", "limit=5")
    enabled.run("config", "loop-warner", "--unset", "limit")
    assert enabled.ask("config", "loop-warner")["settings"]["limit"]["value"] == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("limit=many",), "expected a whole number"),
        (("limt=5",), "did you mean 'limit'?"),
        (("limit",), "expected KEY=VALUE"),
        (("limit=5", "--unset", "limit"), "exclude each other"),
    ],
)
def test_a_wrong_assignment_is_an_error_and_changes_nothing(
    enabled: Operator, words: tuple[str, ...], text: str
) -> None:
    before = enabled.home.config_file.read_bytes()
    assert text in enabled.run("config", "loop-warner", *words, code=2).stderr
    assert enabled.home.config_file.read_bytes() == before
    assert enabled.records("setting") == []


def test_a_secret_on_the_command_line_is_refused_and_repeated_nowhere(enabled: Operator) -> None:
    result = enabled.run("config", "loop-warner", f"token={SECRET}", code=2)
    assert SECRET not in result.stdout + result.stderr
    assert "ally-plugins config loop-warner token" in result.stderr
    assert leaks(enabled) == []


def test_a_secret_from_standard_input_stands_in_the_private_file_only(enabled: Operator) -> None:
    result = enabled.run("config", "loop-warner", "token", text=f"{SECRET}\n")
    assert SECRET not in result.stdout + result.stderr
    assert leaks(enabled) == [str(enabled.home.secrets_file)]
    assert stat.S_IMODE(enabled.home.secrets_file.stat().st_mode) == 0o600
    assert Registry(enabled.home).get("loop-warner").settings["token"] == SECRET


@pytest.mark.slow
def test_a_secret_at_the_terminal_is_not_shown(enabled: Operator) -> None:
    shown = enabled.at_terminal("config", "loop-warner", "token", until="(not shown): ", answer=f"{SECRET}\n".encode())
    assert "token is set" in shown
    assert SECRET not in shown
    assert leaks(enabled) == [str(enabled.home.secrets_file)]


def test_a_secret_is_shown_as_set_or_not_set(enabled: Operator) -> None:
    assert "not set" in enabled.run("config", "loop-warner").stdout
    enabled.run("config", "loop-warner", "token", text=SECRET)
    for words in (("config", "loop-warner"), ("info", "loop-warner")):
        shown = enabled.run(*words).stdout
        assert "not set" not in shown
        assert SECRET not in shown
        assert SECRET not in enabled.run(*words, "--json").stdout
    assert enabled.ask("config", "loop-warner")["settings"]["token"]["is_set"] is True


def test_no_secret_is_an_error_and_none_is_kept(enabled: Operator) -> None:
    assert "standard input" in enabled.run("config", "loop-warner", "token", text="", code=2).stderr
    assert not enabled.home.secrets_file.exists()


def test_a_secret_that_cannot_be_recorded_is_put_back_as_it_was(enabled: Operator) -> None:
    enabled.run("config", "loop-warner", "token", text="the old one")
    registry = Registry(enabled.home)
    with recorder(registry) as writing:
        writing.journal.close_blocking()
        with pytest.raises(JournalError, match="nothing was changed"):
            _set(writing, registry.get("loop-warner"), "token", SECRET)
    assert registry.secrets.get("loop-warner", "token") == "the old one"


def test_comments_of_a_hand_written_file_stay(enabled: Operator) -> None:
    file = enabled.home.config_file
    file.write_text(f"# mine\n{file.read_text()}")
    enabled.run("config", "loop-warner", "limit=5")
    assert file.read_text().startswith("# mine\n")


def test_a_wrong_key_in_the_file_is_an_error_that_names_it(enabled: Operator) -> None:
    file = enabled.home.config_file
    file.write_text(file.read_text().replace("enabled", "enabeld"))
    error = enabled.run("list", code=2).stderr
    assert "enabeld" in error
    assert "did you mean 'enabled'?" in error

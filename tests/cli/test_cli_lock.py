"""`lock` and `apply`: a second machine made like the first, and nothing loosened there unasked."""

from __future__ import annotations

import json
import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pytest
import tomlkit
from attrs import evolve
from packaging.pylock import Pylock

from ally_plugins.catalog.decide.lock import LockedPlugin, differences
from ally_plugins.catalog.home.consent import read_consent
from ally_plugins.catalog.locking import read_lock, requirement_lines, write_lock
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.fleet.batches import UNREADABLE
from ally_plugins.fleet.holdings import holdings_of
from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from .conftest import Operator

NAME = "loop-warner"
HASH = "a" * 64
_LOCK = 'lock-version = "1.0"\ncreated-by = "x"\npackages = []\n'
_OURS = f'{_LOCK}[tool.ally-plugins]\nversion = "1"\n'


@pytest.fixture
def locked(enabled: Operator, tmp_path: Path) -> Operator:
    """Return an operator whose plugin came as a wheel, with the lock of that in `lock.toml`."""
    (info,) = enabled.site.glob("*.dist-info")
    archive = {"url": "file:///wheels/loop_warner-1.0.whl", "archive_info": {"hashes": {"sha256": HASH}}}
    info.joinpath("direct_url.json").write_text(json.dumps(archive))
    enabled.run("config", NAME, "limit=5")
    assert enabled.ask("lock", "-o", str(tmp_path / "lock.toml"))["packages"] == ["loop-warner"]
    return enabled


def file_of(tmp_path: Path) -> str:
    return str(tmp_path / "lock.toml")


def anew(operator: Operator) -> None:
    """Make of the home that of another machine, where nothing was agreed to."""
    for file in (operator.home.config_file, operator.home.consent_file):
        file.unlink()


def state_of(operator: Operator) -> Any:
    return operator.ask("info", NAME)


def test_the_lock_is_one_that_others_read_with_hashes_and_without_secrets(locked: Operator, tmp_path: Path) -> None:
    file = locked.home.config_file
    file.write_text(file.read_text().replace("limit = 5", 'limit = 5\ntoken = "hunter2"'))
    locked.ask("lock", "-o", file_of(tmp_path))
    text = Path(file_of(tmp_path)).read_text()
    assert "hunter2" not in text
    lock = Pylock.from_dict(tomllib.loads(text))
    (package,) = lock.packages
    assert package.archive is not None
    assert package.archive.hashes == {"sha256": HASH}
    plugin = tomllib.loads(text)["tool"]["ally-plugins"]["plugins"][NAME]
    assert plugin["config"]["enabled"]
    assert plugin["config"]["settings"] == {"limit": 5}
    assert "gate:tool_call:bash" in plugin["config"]["grants"]
    assert requirement_lines(lock) == [f"loop-warner @ file:///wheels/loop_warner-1.0.whl --hash=sha256:{HASH}"]


def test_a_wheel_whose_installer_noted_no_hash_is_hashed_where_it_lies_while_it_is_the_installed_one(
    enabled: Operator, tmp_path: Path
) -> None:
    (info,) = enabled.site.glob("*.dist-info")
    wheel = write_wheel(tmp_path / "made", NAME, "1.0", {"loop_warner/__init__.py": "class LoopWarner: pass"})
    with ZipFile(wheel) as archive:
        record = archive.read("loop_warner-1.0.dist-info/RECORD").decode()
    (info / "RECORD").write_text(f"{record}loop_warner-1.0.dist-info/INSTALLER,sha256=x,3\n")
    (info / "direct_url.json").write_text(json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    enabled.run("lock", "-o", file_of(tmp_path))
    (package,) = Pylock.from_dict(tomllib.loads(Path(file_of(tmp_path)).read_text())).packages
    assert package.archive is not None
    assert package.archive.hashes == {"sha256": sha256(wheel.read_bytes()).hexdigest()}

    write_wheel(tmp_path / "made", NAME, "1.0", {"loop_warner/__init__.py": "class LoopWarner: 'another'"})
    refused = enabled.run("lock", "-o", file_of(tmp_path), "--no-index", code=1).stderr
    assert re.search("only pip says what hash|pip does not say the hashes", refused)


def test_where_nothing_differs_apply_says_so_and_ends_with_0(locked: Operator, tmp_path: Path) -> None:
    assert locked.ask("apply", file_of(tmp_path), "--check") == {"differences": [], "changed": []}
    assert "nothing differs" in locked.run("apply", file_of(tmp_path)).stdout


def test_another_machine_is_made_so_once_somebody_has_agreed(locked: Operator, tmp_path: Path) -> None:
    before = locked.home.config_file.read_text()
    anew(locked)
    checked = locked.ask("apply", file_of(tmp_path), "--check", code=1)["differences"]
    assert {"enabled", "grants", "settings"} <= {each["what"] for each in checked}
    refused = locked.run("apply", file_of(tmp_path), code=1)
    assert "what loosens is left as it is" in refused.stderr
    assert "to stop a loop" in refused.stdout
    assert state_of(locked)["state"] == "waiting for consent"
    assert locked.ask("apply", file_of(tmp_path), "--yes")["differences"] == []
    assert state_of(locked)["state"] == "enabled"
    assert tomllib.loads(locked.home.config_file.read_text()) == tomllib.loads(before)
    assert [record["kind"] for record in locked.records("enable", "configure")][-2:] == ["configure", "enable"]


@pytest.mark.slow
def test_machines_that_are_alike_have_one_revision_which_a_setting_changes(locked: Operator, tmp_path: Path) -> None:
    first = locked.ask("lock", "-o", file_of(tmp_path))["revision"]
    assert f"revision {first}" in locked.run("lock", "-o", file_of(tmp_path)).stdout
    assert holdings_of(locked.home).plugins == first
    anew(locked)
    assert holdings_of(locked.home).plugins != first
    locked.ask("apply", file_of(tmp_path), "--yes")
    assert holdings_of(locked.home).plugins == first
    locked.run("config", NAME, "limit=6")
    assert holdings_of(locked.home).plugins not in {first, UNREADABLE}
    locked.home.config_file.write_text("nonsense")
    assert holdings_of(locked.home).plugins == UNREADABLE


@pytest.mark.slow
def test_what_makes_a_plugin_stricter_is_done_without_a_question_and_agrees_to_nothing(
    locked: Operator, tmp_path: Path
) -> None:
    locked.run("revoke", NAME, "add_message:user")
    locked.ask("lock", "-o", file_of(tmp_path))
    locked.run("grant", NAME, "add_message:user")
    locked.run("shadow", NAME)
    agreed = read_consent(locked.home)[0][NAME]
    done = locked.ask("apply", file_of(tmp_path))
    assert (done["differences"], done["changed"]) == ([], [NAME])
    now = read_consent(locked.home)[0][NAME]
    assert evolve(now, settled=agreed.settled) == agreed
    # Held to from here on, as what any command has settled.
    assert (now.settled and now.settled.shadow, agreed.settled and agreed.settled.shadow) == (False, True)
    assert not state_of(locked)["shadow"]


def test_a_guard_that_the_lock_lacks_stays_until_somebody_agrees(locked: Operator, tmp_path: Path) -> None:
    locked.run("revoke", NAME, "gate:tool_call:bash")
    locked.ask("lock", "-o", file_of(tmp_path))
    locked.run("grant", NAME, "gate:tool_call:bash")
    assert "what loosens is left as it is" in locked.run("apply", file_of(tmp_path), code=1).stderr
    assert "gate:tool_call:bash" in state_of(locked)["grants"]
    locked.run("apply", file_of(tmp_path), "--yes")
    assert "gate:tool_call:bash" not in state_of(locked)["grants"]


def test_a_plugin_that_the_lock_does_not_have_is_disabled_only_with_consent(locked: Operator, tmp_path: Path) -> None:
    file = Path(file_of(tmp_path))
    written = tomlkit.parse(file.read_text())
    del written["tool"]["ally-plugins"]["plugins"][NAME]
    file.write_text(tomlkit.dumps(written))
    locked.run("apply", str(file), code=1)
    assert state_of(locked)["state"] == "enabled"
    locked.run("apply", str(file), "--yes")
    assert state_of(locked)["state"] == "disabled"


def test_other_files_than_those_of_the_lock_are_never_enabled_by_it(locked: Operator, tmp_path: Path) -> None:
    anew(locked)
    locked.site.joinpath("loop_warner", "__init__.py").write_text("class Plugin: ...\n")
    (difference,) = [
        each
        for each in locked.ask("apply", file_of(tmp_path), "--check", code=1)["differences"]
        if each["what"] == "code"
    ]
    assert difference["here"] == "loop-warner 1.0 (other files)"
    refused = locked.run("apply", file_of(tmp_path), code=1)
    assert f"--hash=sha256:{HASH}" in refused.stdout
    assert "nothing is installed" in refused.stderr
    assert state_of(locked)["state"] == "waiting for consent"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no toml [", "is no lock"),
        (_LOCK, "has the version None of tool.ally-plugins"),
        (f"{_OURS}[tool.ally-plugins.plugins.guard.config]\nenabled = 7\n", "plugins.guard.enabled"),
        (f"{_OURS}plugins = 3\n", "tool.ally-plugins.plugins"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_lock_changes_nothing_and_is_named(
    locked: Operator, tmp_path: Path, text: str, why: str
) -> None:
    Path(file_of(tmp_path)).write_text(text)
    before = locked.home.config_file.read_bytes()
    assert why in locked.run("apply", file_of(tmp_path), "--yes", code=2).stderr
    assert locked.home.config_file.read_bytes() == before
    assert "there is no file" in locked.run("apply", str(tmp_path / "nowhere"), code=2).stderr


@pytest.mark.parametrize(
    ("there", "here", "loosens"),
    [
        ({"shadow": True}, {}, True),
        ({}, {"shadow": True}, False),
        ({"shadow": ["tool_call"]}, {"shadow": True}, True),
        ({"mandatory": True}, {}, False),
        ({}, {"mandatory": True}, True),
        ({"placement": "sandbox"}, {"placement": "process"}, False),
        ({"placement": "inline"}, {"placement": "sandbox"}, True),
        ({}, {"placement": "sandbox"}, True),
        ({"consent": "files"}, {}, False),
        ({"on_error": {"gate": "allow"}}, {}, True),
        ({"settings": {"limit": 9}}, {"settings": {"limit": 3}}, True),
        ({"ungated_tools": True}, {}, True),
    ],
)
def test_only_what_is_known_to_be_stricter_waits_for_nobody(
    there: dict[str, Any],
    here: dict[str, Any],
    loosens: bool,  # noqa: FBT001
) -> None:
    shared = {"enabled": True, "grants": []}
    both = [{"p": LockedPlugin(name="p", code="x", config={**shared, **config})} for config in (there, here)]
    assert [each.loosens for each in differences(*both)] == [loosens]


@pytest.mark.usefixtures("locked")
def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    plugins, lock = read_lock(Path(file_of(tmp_path)).read_text(), "lock.toml")
    assert read_lock(write_lock(plugins, lock.packages), "lock.toml")[0] == plugins


def test_a_folder_has_no_hash_to_install_it_by() -> None:
    entry = {"name": "guard", "directory": {"path": "/here/guard"}}
    lock = Pylock.from_dict({"lock-version": "1.0", "created-by": "x", "packages": [entry]})
    with pytest.raises(ConfigError, match="guard was installed from a folder"):
        requirement_lines(lock)

"""What lies in a project's `.ally`: what of it is read, when, and what is refused whatever it says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.project_trust import trust, untrust
from ally_plugins.catalog.projects.ally_folder import read_ally_folder
from ally_plugins.catalog.projects.project_file import parse_project_file
from ally_plugins.catalog.projects.roots import find_root
from ally_plugins.catalog.projects.trusted import plugin_folders, read_trusted, rules_for
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import ConfigError, ConsentError
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.policy.project_rules import SessionRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

pytestmark = pytest.mark.skipif(os.name != "posix", reason="projects are trusted on POSIX only")

DAEMON = """
description = "counts"
[daemon]
command = ["./run.sh"]
[permissions]
gate = { on = ["tool_call"], reason = "to stop it" }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a repository with an `.ally` that says something."""
    root = tmp_path / "work" / "repo"
    (root / ".git").mkdir(parents=True)
    (root / "src").mkdir()
    (root / ".ally").mkdir()
    (root / ".ally" / "project.toml").write_text('deny_tools = ["web"]\n')
    for each in (root, root / ".ally", root / ".ally" / "project.toml"):
        each.chmod(each.stat().st_mode & ~0o022)
    return root


@pytest.fixture
def registry(home: Home, site: Site) -> Registry:  # noqa: ARG001 - nothing else is installed
    home.prepare()
    return Registry(home)


def add_plugin(project: Path, name: str = "counter") -> Path:
    folder = project / ".ally" / "plugins" / name
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text(DAEMON)
    (folder / "run.sh").write_text("#!/bin/sh\nexit 0\n")
    (folder / "run.sh").chmod(0o755)
    return folder


# --- where it is looked for ---


def test_the_nearest_folder_up_to_the_root_of_the_repository_counts(project: Path) -> None:
    assert find_root(str(project / "src")) == str(project)
    (project / "src" / ".ally").mkdir()
    assert find_root(str(project / "src")) == str(project / "src")


def test_what_lies_above_the_repository_is_not_looked_at(project: Path) -> None:
    (project.parent / ".ally").mkdir()
    (project / ".ally" / "project.toml").unlink()
    (project / ".ally").rmdir()
    assert find_root(str(project / "src")) is None


def test_without_a_repository_only_the_folder_itself_counts(tmp_path: Path) -> None:
    (tmp_path / "outside" / "below").mkdir(parents=True)
    (tmp_path / "outside" / ".ally").mkdir()
    assert find_root(str(tmp_path / "outside" / "below")) is None


# --- what is refused ---


def _link_folder(root: Path) -> None:
    (root / ".ally").rename(root / "real")
    (root / ".ally").symlink_to("real")


def _link_file(root: Path) -> None:
    (root / ".ally/project.toml").unlink()
    (root / ".ally/project.toml").symlink_to("/etc/passwd")


def _pipe(root: Path) -> None:
    (root / ".ally/project.toml").unlink()
    os.mkfifo(root / ".ally/project.toml")


def _many(root: Path) -> None:
    for number in range(600):
        (root / ".ally" / f"{number}").touch(0o600)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link in the place of the folder": (_link_folder, "it is a link and not a folder"),
    "a link in the place of the file": (_link_file, "it is a link and not a regular file"),
    "a pipe": (_pipe, "it is a named pipe and not a regular file"),
    "a folder that everybody can write": (lambda root: (root / ".ally").chmod(0o777), "can be written by everybody"),
    "a project that everybody can write": (lambda root: root.chmod(0o777), "can be written by everybody"),
    "a file that everybody can write": (
        lambda root: (root / ".ally/project.toml").chmod(0o666),
        "can be written by everybody",
    ),
    "too many files": (_many, "it has more than 500 files"),
    "a huge file": (lambda root: os.truncate(root / ".ally/project.toml", 1 << 34), "it has more than 8 MiB"),
    "a name with an escape": (lambda root: (root / ".ally/a\x1b[2J").mkdir(), "whose name cannot be shown"),
    "a deep folder": (lambda root: (root / ".ally" / "/".join("d" * 40)).mkdir(parents=True), "deeper than 16"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_somebody_else_could_exchange_or_cannot_be_shown_is_not_trusted(
    registry: Registry, project: Path, case: str
) -> None:
    make, reason = HOSTILE[case]
    make(project)
    with pytest.raises(ConfigError, match="cannot be trusted") as raised:
        read_ally_folder(str(project), registry.home.path)
    assert reason in str(raised.value)
    assert read_trusted(registry.home) == {}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives a file away")
def test_what_belongs_to_another_user_is_not_trusted(registry: Registry, project: Path) -> None:
    os.chown(project / ".ally" / "project.toml", 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to the user 12345"):
        read_ally_folder(str(project), registry.home.path)


def test_neither_a_home_directory_nor_what_is_around_the_plugins_home_is_a_project(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ally").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user" / ".ally").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is, or is around, your home directory"):
        read_ally_folder(str(tmp_path / "user"), registry.home.path)
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(ConfigError, match="is, or is around, the home of the plugins"):
        read_ally_folder(str(tmp_path), registry.home.path)
    with pytest.raises(ConfigError, match="lies in the home of the plugins"):
        read_ally_folder(str(registry.home.run_dir), registry.home.path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[plugins.p]\nenabled = true\n", "a project enables nothing, expected false"),
        ('[plugins.p]\ngrants = ["gate:tool_call"]\n', "which a project cannot narrow"),
        ('[plugins.p]\ngrants = ["network"]\n', "which a project cannot narrow"),
        ('[plugins.p]\nplacement = "inline"\n', "unknown key"),
        ("[plugins.p]\nshadow = true\n", "unknown key"),
        ("[plugins.p]\ndeadlines = { observe = 1 }\n", "unknown key"),
        ("[plugins.p]\ndeadlines = { gate = 0 }\n", "a number above 0"),
        ("[plugins.p.settings]\nwhen = 2026-01-01\n", "holds what no setting can be"),
        ('sources = ["evil"]\n', "unknown key"),
        ('mandatory = ["No Name"]\n', "the name of a plugin"),
        ("[" * 5000, "is not TOML"),
        ("\xff", "is not TOML"),
    ],
)
def test_a_project_can_say_nothing_that_would_loosen(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_project_file(text.encode("latin-1"), "/work")


# --- trusting ---


def test_what_is_trusted_holds_whatever_becomes_of_the_folder(registry: Registry, project: Path) -> None:
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    (project / ".ally" / "project.toml").write_text("deny_tools = []\n")
    assert rules_for(registry.home, str(project / "src")).why_denied("web", None) is not None
    (project / ".ally" / "project.toml").unlink()
    (project / ".ally").rmdir()
    # A repository made in the project ends nothing either.
    (project / "src" / ".git").mkdir()
    assert rules_for(registry.home, str(project / "src")).why_denied("web", None) is not None
    assert rules_for(registry.home, str(project.parent)).rules == ()
    assert rules_for(registry.home, f"{project}-2").rules == ()


def test_rules_of_several_trusted_folders_around_hold_together(registry: Registry, project: Path) -> None:
    inner = project / "src" / ".ally"
    inner.mkdir(0o755)
    (inner / "project.toml").write_text('deny_tools = ["bash"]\n[plugins.p]\ngrants = ["tools"]\n')
    (project / ".ally" / "project.toml").write_text('deny_tools = ["web"]\n[plugins.p]\ngrants = ["ask", "tools"]\n')
    for root in (project, project / "src"):
        trust(registry, read_ally_folder(str(root), registry.home.path), "person")
    rules = rules_for(registry.home, str(project / "src"))
    assert rules.why_denied("bash", None)
    assert rules.why_denied("x", "web")
    granted = GrantSet.of(["ask", "tools", "tasks", "gate:tool_call", "events:*"])
    assert rules.grants("p", granted).texts() == ("events:*", "gate:tool_call", "tools")


def test_files_of_the_project_are_narrowed_to_a_folder_in_it() -> None:
    file = parse_project_file(b'[plugins.p]\ngrants = ["files:read:project/src"]\n', "/work")
    granted = GrantSet.of(["files:write:project", "files:read:project", "network", "files:read:data"])
    assert SessionRules("/work", (file.rules,)).grants("p", granted).texts() == ("files:read:project/src", "network")


def test_a_plugin_that_a_project_adds_is_a_copy_and_waits_for_consent(registry: Registry, project: Path) -> None:
    folder = add_plugin(project)
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    record = registry.get("counter")
    assert (record.state, record.project) == ("waiting for consent", str(project))
    registry.enable(registry.plan("counter", placement="process"))
    assert registry.get("counter").state == "enabled"
    (folder / "run.sh").write_text("#!/bin/sh\nevil\n")
    again = registry.get("counter")
    assert again.state == "enabled"
    assert again.make_ready() == ""
    assert again.found is not None
    assert "evil" not in Path(again.found.root, "run.sh").read_text()
    assert os.access(Path(again.found.root, "run.sh"), os.X_OK)


def test_a_plugin_whose_files_have_changed_waits_for_consent_once_that_is_trusted(
    registry: Registry, project: Path
) -> None:
    folder = add_plugin(project)
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    registry.enable(registry.plan("counter", placement="process"))
    (folder / "run.sh").write_text("#!/bin/sh\nother\n")
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    record = registry.get("counter")
    assert record.state == "waiting for consent"
    assert record.is_missed


def test_a_name_that_another_plugin_has_is_not_taken_by_a_project(
    registry: Registry, project: Path, site: Site, tmp_path: Path
) -> None:
    site.plugin("counter", DAEMON.replace('[daemon]\ncommand = ["./run.sh"]\n', ""))
    add_plugin(project)
    with pytest.raises(ConsentError, match="there is one of this name already"):
        trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    other = tmp_path / "other"
    (other / ".ally").mkdir(parents=True)
    add_plugin(project, "second")
    add_plugin(other, "second")
    for path in (project / ".ally" / "plugins" / "counter").iterdir():
        path.unlink()
    (project / ".ally" / "plugins" / "counter").rmdir()
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    with pytest.raises(ConsentError, match="there is one of this name already"):
        trust(registry, read_ally_folder(str(other), registry.home.path), "person")


def test_a_plugin_of_a_project_gets_no_durable_events_of_other_sessions(registry: Registry, project: Path) -> None:
    folder = add_plugin(project)
    (folder / "ally-plugin.toml").write_text(
        DAEMON + '[events]\nsubscribe = ["TOOL_CALL_END"]\ndurable = ["TOOL_CALL_END"]\nreason = "r"\n'
    )
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    record = registry.get("counter")
    assert record.state == "broken"
    assert "durable events, which come of every session" in record.reason


def test_where_trust_ends_the_plugins_of_the_project_and_the_consent_to_them_end_too(
    registry: Registry, project: Path
) -> None:
    add_plugin(project)
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    registry.enable(registry.plan("counter", placement="process"))
    untrust(registry, str(project))
    assert registry.load() == ()
    assert plugin_folders(registry.home) == {}
    with pytest.raises(ConfigError, match="is not trusted"):
        untrust(registry, str(project))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"/x": 1}', b'{"/x": {}}', b"\xff"])
def test_a_damaged_file_of_what_was_trusted_is_an_error_and_not_a_home_without_rules(
    registry: Registry, project: Path, content: bytes
) -> None:
    add_plugin(project)
    trust(registry, read_ally_folder(str(project), registry.home.path), "person")
    registry.enable(registry.plan("counter", placement="process"))
    registry.home.projects_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"projects\.json cannot be read"):
        rules_for(registry.home, str(project))
    (record,) = registry.load()
    assert (record.state, record.is_missed) == ("not installed", True)
    assert any("projects.json cannot be read" in problem for problem in registry.problems)

"""Folders with daemons in them: found without running anything, agreed to by their files, chosen where names clash."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.home.config import read_config
from ally_plugins.catalog.home.consent import file_changes, listing_of, read_consent
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.process_spec import Restarts
from ally_plugins.contract.values.errors import ConfigError, ConsentError
from tests.kit.agreeing import agree

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.config import Placement
    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

TOML = """
description = "counts"
[daemon]
command = ["./run.sh", "x"]
[permissions]
emit_event = { reason = "to count" }
"""

LEGACY = {
    "name": "monitor",
    "version": "1.2.0",
    "description": "watches",
    "tools": [{"name": "stats", "description": "tells", "type": "background_rpc", "method": "stats",
               "schema": {"type": "object", "properties": {}}}],
    "background": {"enabled": True, "command": "python3", "args": ["daemon.py"],
                   "communication": {"type": "socket", "path": "/run/monitor.sock"}, "events": ["TOOL_CALL_END"]},
}  # fmt: skip


class Folders:
    """The folders below one home, and the registry over them."""

    def __init__(self, home: Home) -> None:
        self.home = home

    @property
    def registry(self) -> Registry:
        return Registry(self.home, only=None)

    def add(self, name: str = "counter", files: dict[str, str] | None = None, toml: str | None = TOML) -> Path:
        folder = self.home.plugins_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"run.sh": "echo", **(files or {}), **({"ally-plugin.toml": toml} if toml is not None else {})}
        for path, content in wanted.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return folder

    def add_legacy(self, name: str = "monitor", toml: str | None = None, **changes: object) -> Path:
        return self.add(name, {"plugin.json": json.dumps(LEGACY | changes), "daemon.py": ""}, toml)

    def enable(self, name: str = "counter", placement: Placement | None = None) -> PluginRecord:
        registry = self.registry
        registry.enable(registry.plan(name, placement=placement))
        return registry.get(name)

    def problems(self) -> tuple[str, ...]:
        registry = self.registry
        registry.load()
        return registry.problems


@pytest.fixture
def folders(home: Home, site: Site) -> Folders:
    assert site.path.is_dir()
    return Folders(home)


# What cannot be trusted


def test_a_folder_that_is_a_link_is_refused_in_one_line(folders: Folders, tmp_path: Path) -> None:
    folders.add()
    elsewhere = folders.add("elsewhere").rename(tmp_path / "elsewhere")
    (folders.home.plugins_dir / "linked").symlink_to(elsewhere)
    (folders.home.plugins_dir / "dangling").symlink_to(tmp_path / "nowhere")
    assert [record.name for record in folders.registry.load()] == ["counter"]
    problems = folders.problems()
    assert len(problems) == 2
    assert all("is a link, expected a folder" in problem for problem in problems)


def test_a_folder_that_everybody_can_write_is_refused(folders: Folders) -> None:
    folders.add("open").chmod(0o777)
    assert folders.registry.load() == ()
    assert "can be written by everybody; mend it: chmod o-w" in folders.problems()[0]


def test_when_everybody_can_add_a_folder_none_is_looked_at(folders: Folders) -> None:
    folders.add()
    folders.home.plugins_dir.chmod(0o777)
    assert folders.registry.load() == ()
    assert "none of its folders is looked at" in folders.problems()[0]


def test_folders_that_are_no_plugins_are_one_line_each_and_hurt_no_other(folders: Folders) -> None:
    folders.add()
    folders.add("empty", toml=None)
    folders.add("Wrong Name")
    folders.add(".hidden", toml=None)
    (folders.home.plugins_dir / "a-file").write_text("")
    assert [record.name for record in folders.registry.load()] == ["counter"]
    unnamed, empty = folders.problems()
    assert "Wrong Name' is named after no plugin" in unnamed
    assert "empty' has no ally-plugin.toml and no plugin.json" in empty


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("nonsense", "not TOML"),
        ("description = 'x'", "has no [daemon]"),
        ('[daemon]\ncommand = ["../sh"]', "daemon.command"),
        ('requires_host = ">=9"\n[daemon]\ncommand = ["x"]', "needs host API >=9"),
    ],
)
def test_a_damaged_manifest_is_a_broken_plugin(folders: Folders, toml: str, reason: str) -> None:
    folders.add(toml=toml)
    record = folders.registry.get("counter")
    assert record.state == "broken"
    assert reason in record.reason


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(folders: Folders) -> None:
    os.mkfifo(folders.add(toml=None) / "ally-plugin.toml")
    assert "not a regular file" in folders.registry.get("counter").reason


def test_a_folder_that_links_elsewhere_cannot_be_agreed_to(folders: Folders, tmp_path: Path) -> None:
    folder = folders.add()
    (folder / "lib").symlink_to(tmp_path)
    record = folders.registry.get("counter")
    assert record.state == "broken"
    assert "links to a folder outside of it" in record.reason


@pytest.mark.parametrize("path", [".git/hidden", "vendor/__pycache__", ".hg"])
def test_a_link_into_what_nobody_agrees_to_cannot_be_agreed_to(folders: Folders, path: str) -> None:
    folder = folders.add(files={f"{path}/a.py": "", "vendor/b.py": ""})
    (folder / "lib").symlink_to(path)
    record = folders.registry.get("counter")
    assert record.state == "broken"
    assert "lib' links into '" in record.reason
    assert "whose files nobody agrees to" in record.reason


def test_where_a_link_to_a_folder_leads_is_agreed_to(folders: Folders) -> None:
    folder = folders.add(files={"v1/a.py": "1", "v2/a.py": "2"})
    (folder / "lib").symlink_to("v1")
    record = folders.enable()
    assert record.is_enabled
    (folder / "lib").unlink()
    (folder / "lib").symlink_to("v2")
    assert folders.registry.get("counter").changed_files == ("changed lib",)
    assert "not those that were agreed to" in record.make_ready()
    (folder / "lib").unlink()
    (folder / "lib").symlink_to("v1")
    (folder / "json").symlink_to("v2", target_is_directory=True)  # in the place of Python's own
    assert folders.registry.get("counter").changed_files == ("added json",)


def test_a_link_to_a_file_that_everybody_can_write_cannot_be_agreed_to(folders: Folders, tmp_path: Path) -> None:
    folder = folders.add()
    (tmp_path / "shared.py").write_text("")
    (folder / "helper.py").symlink_to(tmp_path / "shared.py")
    assert folders.registry.get("counter").state == "waiting for consent"
    (tmp_path / "shared.py").chmod(0o666)
    assert "helper.py' can be written by everybody" in folders.registry.get("counter").reason


@pytest.mark.parametrize("path", ["run.sh", "lib"])
def test_what_everybody_can_write_cannot_be_agreed_to(folders: Folders, path: str) -> None:
    folder = folders.add(files={"lib/a.py": ""})
    (folder / path).chmod(0o777)
    assert "can be written by everybody; mend it: chmod o-w" in folders.registry.get("counter").reason


def test_a_folder_too_large_to_be_read_each_time_is_refused_unread(folders: Folders) -> None:
    folder = folders.add()
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    assert "has more than 256 MiB, expected its data elsewhere" in folders.registry.get("counter").reason


def test_two_folders_of_one_name_are_broken_together(folders: Folders) -> None:
    folders.add_legacy("one")
    folders.add_legacy("two")
    record = folders.registry.get("monitor")
    assert record.state == "broken"
    assert "both are 'monitor'; remove one of them" in record.reason


def test_a_broken_plugin_json_is_named_with_every_mistake(folders: Folders) -> None:
    folders.add_legacy(version=3, tools=[])
    record = folders.registry.get("monitor")
    assert record.state == "broken"
    assert "version" in record.reason


# What is found


def test_a_folder_runs_by_its_own_command_in_its_own_directory(folders: Folders) -> None:
    folder = folders.add()
    record = folders.enable()
    assert record.is_enabled
    assert record.placement == "sandbox"
    assert record.daemon is not None
    assert record.daemon.command == (f"{folder}/run.sh", "x")
    assert record.daemon.cwd == str(folder)
    assert record.granted.texts() == ("emit_event",)
    assert record.source == f"folder {folder}"


def test_what_lies_compiled_is_gone_when_a_process_is_to_start(folders: Folders, tmp_path: Path) -> None:
    folder = folders.add(files={"__pycache__/x.pyc": "evil", "deep/__pycache__/y.opt-1.pyc": "evil"})
    record = folders.enable()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.pyc").write_text("evil")
    (folder / "deep" / "er").mkdir()
    (folder / "deep" / "er" / "__pycache__").symlink_to(tmp_path / "elsewhere")
    assert record.make_ready() == ""
    assert not [*folder.rglob("*.pyc"), *folder.rglob("er/__pycache__")]
    assert (tmp_path / "elsewhere" / "z.pyc").exists()
    assert record.daemon is not None
    assert record.daemon.env["PYTHONDONTWRITEBYTECODE"] == "1"
    assert not record.daemon.env["PYTHONPYCACHEPREFIX"]  # also where the operator has granted the host's own


def test_what_lies_compiled_and_cannot_be_removed_keeps_a_process_from_starting(folders: Folders) -> None:
    folder = folders.add(files={"__pycache__/x.pyc/y": "a folder of that name"})
    (folder / "__pycache__" / "x.pyc").rename(folder / "__pycache__" / "y")
    record = folders.enable()
    assert record.make_ready() == ""  # nothing that Python would run
    (folder / "__pycache__" / "x.pyc").symlink_to(folder / "run.sh")
    assert record.make_ready() == ""
    assert not (folder / "__pycache__" / "x.pyc").is_symlink()
    assert (folder / "run.sh").exists()


def test_a_plugin_json_is_a_plugin_with_what_it_asks_for(folders: Folders) -> None:
    folder = folders.add_legacy("any-folder")
    record = folders.enable("monitor")
    assert record.is_enabled
    assert record.version == "1.2.0"
    assert record.daemon is not None
    assert record.daemon.restarts == Restarts(delay=5.0, most=3)
    assert record.daemon.cwd == str(folder)
    assert set(record.granted.texts()) == {"events:TOOL_CALL_END", "tools"}


def test_an_own_manifest_beside_a_plugin_json_asks_for_more(folders: Folders) -> None:
    folders.add_legacy(toml='[permissions]\nadd_message = { roles = ["user"], reason = "to warn" }')
    record = folders.enable("monitor")
    assert record.granted.may_add_message("user")
    assert record.daemon is not None
    assert record.daemon.talks_back


def test_two_daemons_in_one_folder_are_one_too_many(folders: Folders) -> None:
    folders.add_legacy(toml=TOML)
    assert "has a [daemon], and so has plugin.json" in folders.registry.get("monitor").reason


def test_no_folder_runs_before_somebody_agrees(folders: Folders) -> None:
    folders.add()
    record = folders.registry.get("counter")
    assert record.state == "waiting for consent"
    assert not record.config.enabled


# Consent by files


def test_any_change_of_a_file_waits_for_a_new_consent_and_is_shown(folders: Folders) -> None:
    folder = folders.add(files={"lib/a.py": "1", "lib/b.py": "1"})
    folders.enable()
    (folder / "lib/a.py").write_text("2")
    (folder / "lib/b.py").unlink()
    (folder / "json.py").write_text("evil")
    record = folders.registry.get("counter")
    assert record.state == "waiting for consent"
    assert record.changed_files == ("added json.py", "changed lib/a.py", "removed lib/b.py")
    assert "added json.py, changed lib/a.py, removed lib/b.py" in record.reason
    assert folders.enable().is_enabled


@pytest.mark.parametrize("path", ["node_modules/x/index.js", ".venv/bin/python", "x.pyc", ".env", "sub/.hidden"])
def test_what_a_program_may_load_counts(folders: Folders, path: str) -> None:
    folder = folders.add()
    folders.enable()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("x")
    assert folders.registry.get("counter").state == "waiting for consent"


@pytest.mark.parametrize("path", ["x.log", "state.db", "state.db-wal", "daemon.pid", "__pycache__/x.pyc", ".git/HEAD"])
def test_what_a_program_writes_does_not(folders: Folders, path: str) -> None:
    folder = folders.add()
    folders.enable()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("x")
    assert folders.registry.get("counter").is_enabled


def test_a_change_between_showing_and_agreeing_is_refused(folders: Folders) -> None:
    folder = folders.add()
    registry = folders.registry
    plan = registry.plan("counter")
    (folder / "run.sh").write_text("rm -rf")
    with pytest.raises(ConsentError, match="has changed since it was shown"):
        registry.enable(plan)


def test_a_restart_is_told_of_files_that_have_changed_since(folders: Folders, site: Site, tmp_path: Path) -> None:
    folder = folders.add()
    site.plugin("mover")
    record, package = folders.enable(), folders.enable("mover")
    assert record.files_problem() == package.files_problem() == ""
    (folder / "run.sh").write_text("evil")
    site.write("mover/__init__.py", "evil")
    assert record.files_problem().endswith("and agree: ally-plugins enable counter")
    assert package.files_problem() == ""  # only its code has changed, which is marked
    (folder / "lib").symlink_to(tmp_path)
    assert "links to a folder outside of it" in record.files_problem()


def test_a_listing_survives_names_that_no_terminal_shows(folders: Folders) -> None:
    folder = folders.add()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n\x1b.py")).write_text("x")
    folders.enable()
    agreements, _, damage = read_consent(folders.home)
    assert damage == ()
    assert all(line.isprintable() for line in agreements["counter"].listing)
    assert folders.registry.get("counter").is_enabled


def test_a_very_long_path_keeps_nobody_from_agreeing(folders: Folders) -> None:
    folders.add(files={"/".join(["x" * 200] * 7): ""})
    assert folders.enable().is_enabled


def test_a_long_listing_is_left_to_its_digest() -> None:
    assert listing_of({f"{i}": "a" * 64 for i in range(501)}) == ()
    assert file_changes(listing_of({"a": "1"}), listing_of({"a": "2", "b c": "1"})) == ("changed a", "added b c")


def test_consent_is_not_asked_again_when_nothing_changes(folders: Folders) -> None:
    folders.add_legacy()
    folders.enable("monitor")
    assert folders.registry.review() == ()


# A folder and a package of one name


def test_a_folder_with_a_packages_name_is_listed_beside_it_and_does_not_run(folders: Folders, site: Site) -> None:
    folders.add()
    site.plugin("counter")
    package, folder = folders.registry.load()
    assert (package.label, folder.label) == ("counter", "folder:counter")
    assert (package.name, folder.name) == ("counter", "counter")
    assert folder.state == "disabled"
    assert "the package 'counter' has this name too" in folder.reason
    assert folder.reason.endswith("ally-plugins enable folder:counter")


def test_the_operator_chooses_the_folder_and_back_again(folders: Folders, site: Site) -> None:
    folders.add()
    site.plugin("counter")
    folders.enable("counter")
    chosen = folders.enable("folder:counter")
    assert chosen.is_enabled
    assert chosen.origin == "folder"
    assert chosen.name == "counter"
    package = folders.registry.get("package:counter")
    assert package.state == "disabled"
    assert not package.is_missed
    assert package.reason.endswith("ally-plugins enable counter")
    assert folders.registry.qualified_name("counter") == "package:counter"
    assert folders.enable("package:counter").is_enabled
    assert folders.registry.get("counter").origin == "package"
    assert folders.registry.get("folder:counter").state == "disabled"


def test_a_package_installed_later_does_not_take_the_place_of_a_folder(folders: Folders, site: Site) -> None:
    folders.add()
    folders.enable()
    site.plugin("counter")
    assert folders.registry.get("counter").origin == "folder"
    assert folders.registry.get("counter").is_enabled


def test_a_folder_put_there_later_does_not_take_the_place_of_a_package(folders: Folders, site: Site) -> None:
    site.plugin("counter")
    folders.enable()
    folders.add()
    assert folders.registry.get("counter").origin == "package"
    assert folders.registry.get("counter").is_enabled


def test_when_the_chosen_folder_is_gone_the_package_does_not_run_in_its_place(folders: Folders, site: Site) -> None:
    folder = folders.add()
    site.plugin("counter")
    folders.enable("folder:counter")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    gone, package = folders.registry.load()
    assert (gone.label, gone.state) == ("folder:counter", "not installed")
    assert gone.is_missed
    assert (package.state, package.reason.partition(";")[0]) == (
        "disabled", "config.toml chooses another 'counter', which is not there"
    )  # fmt: skip


def test_a_word_about_the_one_that_does_not_count_is_refused(folders: Folders, site: Site) -> None:
    folders.add()
    site.plugin("counter")
    folders.enable("counter")
    with pytest.raises(ConsentError, match="is not the one that counts"):
        folders.registry.grant("folder:counter", "emit_event")
    folders.registry.disable("counter")
    with pytest.raises(ConfigError, match="no plugin 'nobody:counter'"):
        folders.registry.get("nobody:counter")


# Packages that ship a daemon


@pytest.mark.parametrize("value", ["my_pkg", "my_pkg:daemon"])
def test_a_package_may_ship_a_daemon_and_nothing_of_it_is_imported(folders: Folders, site: Site, value: str) -> None:
    toml = '[daemon]\ncommand = ["bin/daemon", "a.js"]'
    site.add("my-pkg", {"mine": value}, {"my_pkg/__init__.py": "raise SystemExit(3)", "my_pkg/ally-plugin.toml": toml})
    record = folders.enable("mine")
    assert record.is_enabled
    assert record.daemon is not None
    assert record.daemon.command == (str(site.path / "my_pkg/bin/daemon"), "a.js")
    assert record.daemon.cwd == str(site.path / "my_pkg")
    assert "my_pkg" not in sys.modules


def test_an_entry_point_without_a_class_needs_a_daemon(folders: Folders, site: Site) -> None:
    site.add("my-pkg", {"mine": "my_pkg"}, {"my_pkg/__init__.py": "", "my_pkg/ally-plugin.toml": ""})
    record = folders.registry.get("mine")
    assert record.state == "broken"
    assert "is not of the form MODULE:CLASS" in record.reason


def test_a_single_module_ships_no_daemon(folders: Folders, site: Site) -> None:
    toml = '[daemon]\ncommand = ["x"]'
    site.add("my-mod", {"mine": "my_mod"}, {"my_mod.py": "", "my_mod.ally-plugin.toml": toml})
    assert "which only a package can ship" in folders.registry.get("mine").reason


def test_python_in_a_package_is_the_one_that_it_is_installed_for(folders: Folders, site: Site) -> None:
    toml = '[daemon]\ncommand = ["python3", "-m", "my_pkg.run"]'
    site.add("my-pkg", {"mine": "my_pkg"}, {"my_pkg/__init__.py": "", "my_pkg/ally-plugin.toml": toml})
    record = folders.enable("mine")
    assert record.daemon is not None
    assert record.daemon.command == (sys.executable, "-m", "my_pkg.run")


def test_a_daemon_is_remembered_with_the_rest(folders: Folders, site: Site) -> None:
    toml = '[daemon]\ncommand = ["python3"]\n[daemon.limits]\nmemory_mb = 7\n[daemon.health]\nretries = 9'
    site.add("my-pkg", {"mine": "my_pkg"}, {"my_pkg/__init__.py": "", "my_pkg/ally-plugin.toml": toml})
    site.settle()
    first = folders.registry.get("mine")
    second = folders.registry.get("mine")
    assert first.found == second.found
    assert first.daemon is not None
    assert (first.daemon.limits.memory_mb, first.daemon.timing.ping_retries) == (7, 9)


# Where it runs


def test_a_class_moves_into_a_process_and_back(folders: Folders, site: Site) -> None:
    site.plugin("mover")
    assert folders.enable("mover", "inline").placement == "inline"
    folders.registry.place("mover", "process")
    record = folders.registry.get("mover")
    assert record.placement == "process"
    assert record.daemon is not None
    assert record.daemon.command == (sys.executable, "-m", "ally_plugins.daemon", "mover:Plugin")
    folders.registry.place("mover", "inline")
    assert folders.registry.get("mover").daemon is None


def test_what_is_found_by_pythonpath_is_found_in_a_process_of_the_same_python(
    folders: Folders, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("mover")
    folders.enable("mover")
    monkeypatch.setenv("PYTHONPATH", str(site.path))
    folders.registry.place("mover", "process")
    record = folders.registry.get("mover")
    assert record.daemon is not None
    assert record.daemon.env == {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(site.path)}
    folders.registry.place("mover", "process", interpreter=sys.executable)
    record = folders.registry.get("mover")
    assert record.daemon is not None
    assert record.daemon.env == {"PYTHONSAFEPATH": "1"}


def test_what_ships_a_daemon_cannot_run_inline(folders: Folders) -> None:
    folders.add()
    folders.enable()
    with pytest.raises(ConsentError, match="it ships a program and no class, so it cannot run inline"):
        folders.registry.place("counter", "inline")
    folders.home.config_file.write_text(
        folders.home.config_file.read_text().replace('placement = "sandbox"', 'placement = "inline"')
    )
    agree(folders.home)
    record = folders.registry.get("counter")
    assert record.state == "not configured"
    assert record.is_missed
    assert record.reason.endswith("ally-plugins place counter sandbox")


def test_a_python_or_an_environment_that_is_not_there_is_refused(folders: Folders, site: Site, tmp_path: Path) -> None:
    site.plugin("mover")
    folders.enable("mover")
    with pytest.raises(ConsentError, match="there is no Python at"):
        folders.registry.place("mover", "process", interpreter=str(tmp_path / "python"))
    (tmp_path / "python").write_text("")
    with pytest.raises(ConsentError, match="is no program"):
        folders.registry.place("mover", "process", interpreter=str(tmp_path / "python"))
    with pytest.raises(ConsentError, match="is not there; to build it: ally-plugins env nope"):
        folders.registry.place("mover", "process", environment="nope")
    with pytest.raises(ConfigError, match="absolute path"):
        folders.registry.place("mover", "process", interpreter="python3")
    assert folders.registry.get("mover").is_enabled


def test_an_environment_that_went_away_is_said_and_the_gates_are_missed(folders: Folders, site: Site) -> None:
    site.plugin("mover", '[permissions]\ngate = { on = ["tool_call"], reason = "to look" }')
    folders.enable("mover", "process")
    text = folders.home.config_file.read_text()
    folders.home.config_file.write_text(text + '\nenvironment = "gone"\n')
    agree(folders.home)
    record = folders.registry.get("mover")
    assert record.state == "not configured"
    assert record.placement == "process"
    assert record.is_missed
    assert record.reason == "the environment 'gone' is not there; to build it: ally-plugins env gone"


def test_limits_and_times_of_the_operator_win(folders: Folders) -> None:
    folders.add(toml=f"{TOML}[daemon.limits]\nmemory_mb = 10\nfile_mb = 20\n")
    folders.enable()
    text = folders.home.config_file.read_text()
    process = '\n[plugins.counter.process]\nmemory_mb = "none"\nping_retries = 8\nstartup_timeout = 2\n'
    folders.home.config_file.write_text(text + process)
    record = folders.registry.get("counter")
    assert record.daemon is not None
    assert (record.daemon.limits.memory_mb, record.daemon.limits.file_mb) == (None, 20)
    assert (record.daemon.timing.ping_retries, record.daemon.timing.startup_timeout) == (8, 2.0)


def test_limits_for_a_plugin_that_runs_inline_are_said_to_be_of_no_use(folders: Folders, site: Site) -> None:
    site.plugin("mover")
    folders.enable("mover", "inline")
    text = folders.home.config_file.read_text()
    folders.home.config_file.write_text(f"{text}\n[plugins.mover.process]\nmemory_mb = 7\n")
    assert "config.toml has process for it, of no use" in folders.registry.get("mover").warnings[0]


def test_what_is_settled_before_the_first_consent_stays(folders: Folders) -> None:
    folders.add()
    folders.home.config_file.write_text("[plugins.counter.process]\nmemory_mb = 77\n")
    assert folders.enable().limits.memory_mb == 77


def test_a_named_python_takes_the_place_of_a_folders_own(folders: Folders) -> None:
    folders.add(toml='[daemon]\ncommand = ["python3", "d.py"]')
    folders.enable()
    folders.registry.place("counter", "process", interpreter=sys.executable)
    record = folders.registry.get("counter")
    assert record.daemon is not None
    assert record.daemon.command == (sys.executable, "d.py")
    folders.add("other")
    folders.enable("other")
    folders.registry.place("other", "process", interpreter=sys.executable)
    assert "config.toml names a Python for it, and it starts" in folders.registry.get("other").warnings[0]


def test_granted_variables_are_those_that_are_passed_on(folders: Folders) -> None:
    folders.add(toml=f'{TOML}env = {{ names = ["B_KEY", "A_KEY"], reason = "to ask" }}')
    assert folders.enable().variables == ("A_KEY", "B_KEY")
    folders.registry.revoke("counter", "env:B_KEY")
    assert folders.registry.get("counter").variables == ("A_KEY",)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('placement = "cellar"', "placement: found 'cellar'"),
        ('sandbox = "maybe"', "sandbox: found 'maybe'"),
        ('interpreter = "python3"', "expected the absolute path of a Python"),
        ('environment = "../x"', "expected the name of an environment"),
        ('interpreter = "/p"\nenvironment = "e"', "expected one of the two"),
        ('source = "pip"', "source: found 'pip'"),
        ("process = { memory_mb = 0 }", "process.memory_mb: found 0"),
        ('process = { ping_retries = "none" }', "process.ping_retries: found 'none'"),
        ("process = { memory = 1 }", "did you mean 'memory_mb'?"),
    ],
)
def test_a_wrong_word_about_a_process_is_refused(home: Home, lines: str, problem: str) -> None:
    home.prepare()
    home.config_file.write_text(f"[plugins.x]\n{lines}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(home)
    assert problem in str(caught.value)

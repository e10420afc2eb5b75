"""Sources of other distributions: named by the operator, asked for plugins, and never a way around the guards."""

from __future__ import annotations

import importlib
import json
import os
import py_compile
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall
from ally_plugins.catalog.discovery import configured_sources, plugin_search
from ally_plugins.catalog.registry import Registry, load_class
from ally_plugins.contract.values.errors import AllyError, ConfigError, ConsentError
from tests.kit.agreeing import agree
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.config import Placement
    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

TOY = '''
"""A source whose plugins stand in `toy.json` of the home, each with what it does at its turn."""
import json, threading
from ally_plugins import (
    Bridge, BridgedPlugin, Daemon, Deny, Discovery, Found, Manifest, Program, Search, Source, ToolResult, hookimpl
)

class Guard:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    def ally_gate_tool_call(self, call):
        return Deny(f"{self.ally.name} says no")

class Shout(Bridge, BridgedPlugin):
    def __init__(self, words):
        self.words, self.host = words, None

    def rows(self):
        return (("shouts", self.words),)

    def data(self):
        return {"words": self.words}

    def missing(self, home):
        return "it wants words; to give it some: toy" if not self.words else ""

    def open(self, host):
        self.host = host
        return self

    async def start(self):
        if self.words == "cannot":
            raise RuntimeError("no voice")
        self.host.ask_before({"shout"})

        async def shout(text):
            program = Program(name="shout", command=("tr", "a-z", "A-Z"), cwd="/", given=text.encode(), timeout=30)
            ran = await self.host.run(program)
            return ToolResult(success=not ran.ended, output=ran.stdout.decode() + self.words)

        await self.host.offer_tool(shout, {
            "name": "shout", "description": "loud",
            "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        })

class Toy(Source):
    manifest_files = ("toy-folder.json",)
    asked = []

    def find(self, search: Search):
        Toy.asked.append((search.about, search.folders, threading.current_thread().name))
        file = search.home / "toy.json"
        said = json.loads(file.read_text()) if file.exists() else []
        if isinstance(said, str):
            return eval(said)
        return Discovery(tuple(self.found(**each) for each in said), ("a line of its own",) if said else ())

    def found(self, name, way="plugin", asks=True, command=("cat",), words="!", **more):
        if not asks:
            permissions = {}
        elif way == "bridge":
            permissions = {"tools": {"reason": "to shout"}}
        else:
            permissions = {"gate": {"on": ["tool_call"], "reason": "to say no"}}
        manifest = Manifest.from_mapping({"description": name, "permissions": permissions}, name)
        runs = {
            "plugin": {"plugin": Guard},
            "class": {"entry_point": "toy_source:Guard"},
            "daemon": {"daemon": Daemon(tuple(command))},
            "bridge": {"bridge": Shout(words)},
            "none": {},
        }[way]
        return Found(**{"name": name, "manifest": manifest, **runs, **more})
'''


class Toys:
    """A home whose config.toml names the source, and what the source finds."""

    def __init__(self, home: Home, site: Site) -> None:
        self.home = home
        self.site = site
        self.offer("toy", "toy_source:Toy", TOY)

    def offer(self, name: str, target: str, code: str, distribution: str = "toy-source") -> None:
        """Install a distribution that offers a source."""
        module = target.partition(":")[0]
        self.site.add(distribution, f"[ally.sources]\n{name} = {target}\n", {f"{module}.py": code})

    def name(self, *sources: str) -> None:
        """Write down which sources count, in the place of what stood there."""
        self.home.prepare()
        file = self.home.config_file
        rest = [line for line in self.lines if not line.startswith("sources")]
        file.write_text("\n".join([f"sources = {json.dumps(sources)}", *rest]))

    @property
    def lines(self) -> list[str]:
        file = self.home.config_file
        return file.read_text().splitlines() if file.exists() else []

    def say(self, *plugins: dict[str, Any] | str) -> None:
        """Let the source find plugins, or return what an expression gives."""
        self.home.prepare()
        said = plugins[0] if plugins and isinstance(plugins[0], str) else plugins
        (self.home.path / "toy.json").write_text(json.dumps(said))

    @property
    def registry(self) -> Registry:
        return Registry(self.home)

    def enable(self, name: str = "guard", placement: Placement | None = None) -> PluginRecord:
        registry = self.registry
        registry.enable(registry.plan(name, placement=placement))
        return registry.get(name)

    def asked(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = sys.modules["toy_source"].Toy.asked
        return found


@pytest.fixture
def toys(home: Home, site: Site) -> Iterator[Toys]:
    configured_sources._imported.cache_clear()
    plugin_search._calls.clear()
    toys = Toys(home, site)
    yield toys
    configured_sources._imported.cache_clear()
    for name in ("toy_source", "other_source"):
        sys.modules.pop(name, None)


def verdict(home: Home) -> str:
    """Return what a new host answers to a call, or the error that it ends with."""

    async def main() -> str:
        async with Host("test", home=home.path) as host:
            ruling: Any = await host.session("s").gate_tool_call(ToolCall("bash", {"command": "ls"}, "c1"))
            return repr(ruling.verdict)

    try:
        return go(main())
    except AllyError as error:
        return f"{type(error).__name__}: {error}"


# Which sources count


def test_a_source_that_nobody_named_is_not_even_imported(toys: Toys) -> None:
    toys.say({"name": "guard"})
    assert toys.registry.load() == ()
    assert "toy_source" not in sys.modules


def test_what_a_named_source_finds_is_a_plugin_like_any_other(toys: Toys) -> None:
    toys.name("packages", "toy")
    toys.say({"name": "guard", "version": "2", "distribution": "gate.json"})
    registry = toys.registry
    (record,) = registry.load()
    assert (record.name, record.found_by, record.origin) == ("guard", "toy", "toy")
    assert record.source == "toy:gate.json 2 (toy)"
    assert record.state == "waiting for consent"
    assert registry.problems == ("a line of its own",)
    assert toys.enable().is_enabled
    assert 'source = "toy"' in toys.lines
    assert "guard says no" in verdict(toys.home)


def test_our_own_sources_count_unless_others_are_named(toys: Toys, site: Site) -> None:
    site.plugin("inside")
    assert [record.found_by for record in toys.registry.load()] == ["packages"]
    toys.name("folders", "code_ally")
    assert toys.registry.load() == ()
    toys.name()
    assert toys.registry.load() == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tyo", r"did you mean 'toy'\?"),
        ("something", "expected one of code_ally, folders, packages, toy"),
    ],
)
def test_a_source_that_nobody_offers_is_an_error_with_the_way_out(toys: Toys, name: str, words: str) -> None:
    toys.name("packages", name)
    with pytest.raises(ConfigError, match=words) as caught:
        toys.registry.load()
    text = f"config.toml names the source {name!r}: no installed distribution offers it; install the one that does, or "
    assert f"{text}take it out of 'sources': " in str(caught.value)
    assert caught.value.path == "sources"
    assert verdict(toys.home).startswith("ConfigError: ")


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("other_source:It", "1 / 0", "ZeroDivisionError: division by zero; mend it"),
        ("other_source:It", "raise SystemExit(3)", "cannot be imported: SystemExit: 3; mend it"),
        ("other_source:It", "", "AttributeError"),
        ("no_such_module:It", "", "No module named 'no_such_module'"),
        ("other_source:It", "class It: pass", "is no subclass of ally_plugins.Source"),
        (
            "other_source:It",
            "from ally_plugins import Source\nclass It(Source):\n manifest_files = 'x.json'\n def find(self, s): ...",
            "with a tuple of manifest_files",
        ),
        ("other_source:It", "def It(): return None", "is no subclass of ally_plugins.Source"),
        ("other_source:It", "from ally_plugins import Source\nclass It(Source): pass", "TypeError: Can't instantiate"),
    ],
)
def test_a_broken_source_is_an_error_with_the_way_out(toys: Toys, target: str, code: str, words: str) -> None:
    toys.site.write("other_source.py", code)
    toys.offer("other", target, code, "other-source") if target.startswith("other") else toys.site.add(
        "other-source", f"[ally.sources]\nother = {target}\n"
    )
    toys.name("packages", "other")
    with pytest.raises(ConfigError) as caught:
        toys.registry.load()
    assert words in str(caught.value)
    assert "names the source 'other'" in str(caught.value)
    assert "take it out of 'sources'" in str(caught.value)
    toys.name("packages")
    assert toys.registry.load() == ()


def test_two_distributions_that_offer_one_name_are_an_error(toys: Toys) -> None:
    toys.offer("toy", "other_source:Other", TOY, "toy-again")
    toys.name("toy")
    with pytest.raises(ConfigError, match="toy-again and toy-source both offer it; uninstall one of them"):
        toys.registry.load()


def test_no_distribution_can_stand_in_for_a_source_of_ours(toys: Toys, site: Site) -> None:
    toys.offer("packages", "other_source:Toy", TOY, "impostor")
    site.plugin("inside")
    toys.name("packages")
    toys.say({"name": "guard"})
    assert [record.name for record in toys.registry.load()] == ["inside"]
    assert "other_source" not in sys.modules


def test_a_command_that_mends_the_file_works_all_the_same(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "guard"})
    toys.enable()
    toys.name("toy", "gone")
    assert toys.registry.get("guard").is_enabled, "a source that is added waits"
    agree(toys.home)
    with pytest.raises(ConfigError, match="'gone'"):
        toys.registry.get("guard")
    toys.registry.disable("guard")
    assert "enabled = false" in toys.lines


# Guards


def test_a_source_that_is_named_no_more_is_an_error_while_its_plugin_is_chosen(toys: Toys) -> None:
    toys.name("packages", "toy")
    toys.say({"name": "guard"})
    toys.enable()
    toys.name("packages")
    words = r"plugins\.guard\.source: found 'toy', expected package, folder, or a source .*; .* take this line out"
    with pytest.raises(ConfigError, match=words):
        toys.registry.load()
    assert verdict(toys.home).startswith("ConfigError: ")
    toys.home.config_file.write_text("\n".join(line for line in toys.lines if line != 'source = "toy"'))
    assert toys.registry.get("guard").reason.startswith("enabled but not installed")
    assert "Deny(" in verdict(toys.home)
    toys.registry.disable("guard")
    assert verdict(toys.home) == "Allow()"


def test_a_gate_denies_while_its_source_of_ours_does_not_count(toys: Toys, site: Site) -> None:
    site.plugin("inside", '[permissions]\ngate = { on = ["tool_call"], reason = "to say no" }')
    toys.enable("inside")
    toys.name("folders")
    (record,) = toys.registry.load()
    assert (record.state, record.is_missed) == ("not installed", True)
    assert "ally-plugins disable inside" in verdict(toys.home)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("1 / 0", "it raised ZeroDivisionError: division by zero"),
        ("(_ for _ in ()).throw(SystemExit(3))", "it raised SystemExit: 3"),
        (
            "(_ for _ in ()).throw(type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})())",
            "it raised Mute: its text cannot be shown",
        ),
        ("None", "it returned a NoneType, expected a Discovery"),
        ("[Found(name='guard')]", "it returned a list, expected a Discovery"),
        ("Discovery((None,))", "it raised AttributeError"),
        ("Discovery((Found(name=7),))", "it raised TypeError"),
        ("Discovery(3)", "it raised TypeError"),
        ("Discovery((), 3)", "it raised TypeError"),
    ],
)
def test_a_source_that_fails_is_a_report_and_its_gates_deny(toys: Toys, site: Site, said: str, why: str) -> None:
    site.plugin("inside")
    toys.name("packages", "toy")
    toys.say({"name": "guard"})
    toys.enable()
    toys.say(said)
    registry = toys.registry
    missing, inside = registry.load()
    assert inside.state == "waiting for consent"
    assert (missing.state, missing.is_missed) == ("not installed", True)
    assert missing.reason.startswith(f"its source 'toy' found nothing: {why}")
    assert missing.reason.endswith("; mend it, or: ally-plugins disable guard")
    (problem,) = registry.problems
    assert problem.startswith(f"the source 'toy' found nothing: {why}")
    assert problem.endswith("; its plugins do not run, and their granted gates deny")
    assert registry.load_one("guard") == missing
    said_no = verdict(toys.home)
    assert said_no.startswith("Deny(")
    assert "ally-plugins disable guard" in said_no


def test_a_source_that_hangs_is_left_alone_after_its_time(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.name("toy")
    toys.say({"name": "guard"})
    toys.enable()
    monkeypatch.setattr(plugin_search, "SOURCE_TIMEOUT", 0.2)
    toys.say("threading.hanging.wait()")
    hanging = threading.hanging = threading.Event()  # type: ignore[attr-defined]
    try:
        assert "it did not answer within 0.2 s; mend it" in toys.registry.get("guard").reason
        asked = len(toys.asked())
        assert "did not answer within 0.2 s, and is still at it" in toys.registry.get("guard").reason
        assert len(toys.asked()) == asked
        assert "Deny(" in verdict(toys.home)
    finally:
        hanging.set()
    late = plugin_search._calls["toy"].late
    assert late is not None
    late.join(20)
    monkeypatch.setattr(plugin_search, "SOURCE_TIMEOUT", 5.0)
    toys.say({"name": "guard"})
    assert toys.registry.get("guard").is_enabled


def test_a_source_is_asked_in_a_thread_of_its_own_and_for_one_plugin_by_name(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "guard"}, {"name": "other"})
    assert [record.name for record in toys.registry.load()] == ["guard", "other"]
    record = toys.registry.load_one("other")
    assert record is not None
    assert record.name == "other"
    assert [(about, thread) for about, _, thread in toys.asked()] == [
        (None, "ally-source-toy"),
        ("other", "ally-source-toy"),
    ]


# What was agreed to


def test_a_change_of_how_it_runs_needs_a_new_consent(toys: Toys) -> None:
    toys.name("toy")
    entry: dict[str, Any] = {"name": "guard", "way": "daemon", "command": ["cat", "a"], "digest": "1"}
    toys.say(entry)
    assert toys.enable().is_enabled
    for change in ({"command": ["cat", "b"]}, {"digest": "2"}, {"way": "plugin"}, {"way": "bridge", "asks": False}):
        toys.say(entry | change)
        record = toys.registry.get("guard")
        assert record.state == "waiting for consent", change
        assert "not those that were agreed to" in record.reason
    toys.say(entry)
    assert toys.registry.get("guard").is_enabled
    toys.say({"name": "guard", "way": "bridge", "words": "loud"})
    assert toys.enable().is_enabled
    toys.say({"name": "guard", "way": "bridge", "words": "louder"})
    assert toys.registry.get("guard").state == "waiting for consent"


def test_the_files_of_its_folder_are_what_was_agreed_to(toys: Toys, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "run.sh").write_text("echo")
    toys.name("toy")
    toys.say({"name": "guard", "way": "daemon", "command": ["./run.sh"], "root": str(folder)})
    record = toys.enable()
    assert record.is_enabled
    assert record.source == f"folder {folder} (toy)"
    assert record.daemon is not None
    assert record.daemon.command == (f"{folder}/run.sh",)
    assert record.daemon.env["PYTHONPYCACHEPREFIX"] == os.devnull  # nothing is removed from another system's folder
    assert record.files_problem() == ""
    (folder / "run.sh").write_text("evil")
    assert "not those that were agreed to" in record.files_problem()
    assert record.make_ready() == record.files_problem()
    after = toys.registry.get("guard")
    assert after.state == "waiting for consent"
    assert after.changed_files == ("changed run.sh",)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"way": "none"}, "its source names no way to run it"),
        ({"root": "relative"}, "expected an absolute path"),
        ({"root": "/no/such/folder"}, "its files cannot be agreed to: No such file or directory"),
        ({"problem": "it is odd"}, "it is odd"),
        ({"manifest": None}, "it has no manifest"),
    ],
)
def test_what_cannot_run_is_broken_with_its_reason(toys: Toys, entry: dict[str, Any], words: str) -> None:
    toys.name("toy")
    toys.say({"name": "guard", **entry}, {"name": "other"})
    guard, other = toys.registry.load()
    assert guard.state == "broken"
    assert words in guard.reason
    assert other.state == "waiting for consent"
    with pytest.raises(ConsentError, match="cannot be enabled"):
        toys.registry.plan("guard")


def test_what_has_no_name_is_one_line(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "Not A Name"}, {"name": "other"})
    registry = toys.registry
    assert [record.name for record in registry.load()] == ["other"]
    assert "the source 'toy' names a plugin 'Not A Name', which is none" in registry.problems


# Where others have the name


def test_a_package_of_its_name_counts_until_the_operator_chooses(toys: Toys, site: Site) -> None:
    site.plugin("guard")
    toys.name("packages", "toy")
    toys.say({"name": "guard"})
    package, other = toys.registry.load()
    assert (package.label, other.label, other.state) == ("guard", "toy:guard", "disabled")
    assert "the package 'guard' has this name too, and counts" in other.reason
    assert other.reason.endswith("ally-plugins enable toy:guard")
    toys.enable("guard")
    chosen = toys.enable("toy:guard")
    assert (chosen.is_enabled, chosen.found_by, chosen.label) == (True, "toy", "toy:guard")
    package = toys.registry.get("package:guard")
    assert package.reason.startswith("the one of the source 'toy' has this name too, and counts; to choose this one: ")
    assert package.reason.endswith(": ally-plugins enable guard")
    assert toys.registry.qualified_name("guard") == "package:guard"
    with pytest.raises(ConsentError, match="is not the one that counts"):
        toys.registry.grant("package:guard", "gate:tool_call")
    assert "guard says no" in verdict(toys.home)
    toys.enable("package:guard")
    assert toys.registry.get("guard").found_by == "packages"


def test_what_one_source_was_trusted_with_another_one_is_not(toys: Toys, site: Site) -> None:
    toys.name("toy")
    toys.say({"name": "guard", "way": "class"})
    assert toys.enable().is_enabled
    toys.say()
    site.plugin("guard", '[permissions]\ngate = { on = ["tool_call"], reason = "to say no" }')
    toys.name("packages", "toy")
    missing, package = toys.registry.load()
    assert (missing.label, missing.state) == ("toy:guard", "not installed")
    assert (package.label, package.state) == ("guard", "disabled")
    assert "Deny(" in verdict(toys.home)


def test_a_source_that_finds_a_name_twice_says_which_two(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "guard", "distribution": "a"}, {"name": "guard", "distribution": "b"})
    (record,) = toys.registry.load()
    assert record.state == "broken"
    assert record.reason == "'toy:a' and 'toy:b' both are 'guard'; remove one of them"


# Folders of the home


def test_a_folder_is_the_source_s_whose_manifest_lies_in_it(toys: Toys) -> None:
    both, own, nobody = (toys.home.plugins_dir / name for name in ("both", "own", "nobody"))
    for folder in (both, own, nobody):
        folder.mkdir(parents=True)
    for folder in (both, own):
        (folder / "ally-plugin.toml").write_text('[daemon]\ncommand = ["cat"]\n')
    (both / "toy-folder.json").write_text("{}")
    toys.name("folders", "toy")
    registry = toys.registry
    assert [(record.name, record.found_by) for record in registry.load()] == [("own", "folders")]
    assert toys.asked()[-1][1] == (str(both),)
    (problem,) = registry.problems
    assert problem == f"the folder {str(nobody)!r} has no ally-plugin.toml and no toy-folder.json"
    toys.name("folders")
    assert [record.name for record in toys.registry.load()] == ["both", "own"]


# Running


@pytest.mark.parametrize("way", ["plugin", "class"])
def test_a_class_of_a_source_is_built_like_any_other(toys: Toys, way: str) -> None:
    toys.name("toy")
    toys.say({"name": "guard", "way": way})
    assert toys.enable(placement="inline").placement == "inline"
    assert "guard says no" in verdict(toys.home)


def test_what_a_source_builds_itself_runs_inline_only(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "guard"}, {"name": "loose", "way": "class"})
    toys.enable()
    toys.enable("loose")
    with pytest.raises(ConsentError, match="builds it inside the agent's process, where alone it runs"):
        toys.registry.place("guard", "process")
    toys.registry.place("loose", "process")
    assert toys.registry.get("loose").placement == "process"


@pytest.mark.skipif(sys.platform == "win32", reason="runs a program of Unix")
def test_a_bridge_offers_tools_runs_programs_and_has_the_person_asked(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "loud", "way": "bridge"})
    record = toys.enable("loud", "process")
    assert record.placement == "process"
    assert record.bridge is not None
    assert record.bridge.rows() == (("shouts", "!"),)

    async def main() -> None:
        async with Host("test", home=toys.home.path) as host:
            assert host.plugins["loud"].state == "running"
            result = await host.call_tool("shout", {"text": "hello"})
            assert result.output == "HELLO!"
            ruling: Any = await host.session("s").gate_tool_call(ToolCall("shout", {"text": "x"}, "c1"))
            assert "wants shout to be confirmed each time" in repr(ruling)

    go(main())


def test_a_bridge_that_cannot_start_is_a_plugin_that_failed(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "loud", "way": "bridge", "words": "cannot"}, {"name": "guard"})
    toys.enable("loud")
    toys.enable("guard")

    async def main() -> None:
        async with Host("test", home=toys.home.path) as host:
            assert host.plugins["guard"].state == "running"
            assert host.plugins["loud"].state == "failed"
            assert "its bridge failed: RuntimeError: no voice" in host.plugins["loud"].reason

    go(main())


def test_what_a_bridge_misses_keeps_its_plugin_from_running(toys: Toys) -> None:
    toys.name("toy")
    toys.say({"name": "loud", "way": "bridge", "words": ""})
    record = toys.enable("loud")
    assert (record.state, record.reason) == ("not configured", "it wants words; to give it some: toy")


def test_compiled_code_beside_what_was_agreed_to_is_left_unread(toys: Toys, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "in_folder.py").write_text("class It:\n    said = 'what was agreed to'\n")
    toys.name("toy")
    toys.say({"name": "guard", "way": "none", "entry_point": "in_folder:It", "root": str(folder), "asks": False})
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    source = folder / "in_folder.py"
    before = source.stat()
    source.write_text("class It:\n    said = 'what nobody has see'\n")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    py_compile.compile(str(source), doraise=True)
    source.write_text("class It:\n    said = 'what was agreed to'\n")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.stat().st_size == before.st_size
    try:
        assert load_class(toys.enable()).said == "what was agreed to"
        toys.registry.place("guard", "process")
        daemon = toys.registry.get("guard").daemon
        assert daemon is not None
        assert daemon.env["PYTHONPYCACHEPREFIX"] == os.devnull
    finally:
        sys.modules.pop("in_folder", None)

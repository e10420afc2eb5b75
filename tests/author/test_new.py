"""`ally-plugins new`: what it writes is a plugin as it comes out, and nothing that is there is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ToolCallEnd
from ally_plugins.testing import BlockingHarness, check_daemon, replay_recording
from tests.kit.commands import environment_for, run_command
from tests.kit.wheels import build_wheel

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: list[dict[str, Any]] = [
    {"kind": kind, "language": language, "has_gate": has_gate, "has_tool": has_tool}
    for kind, language in (("class", "python"), ("daemon", "python"), ("daemon", "node"), ("daemon", "sh"))
    for has_gate, has_tool in ((False, True), (True, True), (True, False), (False, False))
]


def _label(options: dict[str, Any]) -> str:
    return f"{options['kind']}-{options['language']}{'-gate' * options['has_gate']}{'-tool' * options['has_tool']}"


# With a gate and a tool, and in a language each; the rest takes a minute of a core.
FEW = [
    pytest.param(
        options, id=_label(options), marks=[] if options["has_gate"] and options["has_tool"] else [pytest.mark.long]
    )
    for options in KINDS
]


def _skip_without(language: str) -> None:
    if language == "node" and shutil.which("node") is None:
        pytest.skip("there is no node")


@pytest.mark.parametrize("options", KINDS, ids=_label)
def test_each_kind_is_a_plugin_in_which_the_check_finds_nothing(
    new: Callable[..., Path], check: Callable[..., Any], options: dict[str, Any]
) -> None:
    folder = new(**options)
    assert check(folder) == []
    assert not [line for file in folder.rglob("*") if file.is_file() for line in file.read_text().splitlines()
                if line.startswith("%%")]  # fmt: skip


def test_a_daemon_in_shell_speaks_gates_and_offers_its_tool(new: Callable[..., Path]) -> None:
    with BlockingHarness(new(kind="daemon", language="sh", has_gate=True), settings={"limit": 2}) as harness:
        harness.emit(ToolCallEnd(tool_name="bash", success=False))
        assert not harness.pending
        harness.emit(ToolCallEnd(tool_name="bash", success=False))
        assert [each.content for each in harness.pending] == ["bash has failed often; try another way"]
        assert harness.gate("bash", {"command": "rm -rf build"}).is_denied
        assert harness.gate("bash", {"command": "ls"}).is_allowed
        assert harness.call_tool("loop_warner_failures").output.split() == ["2", "bash"]


@pytest.mark.slow
@pytest.mark.parametrize("options", FEW)
def test_each_kind_builds_installs_passes_its_own_tests_and_plays_a_recording(
    new: Callable[..., Path], tmp_path: Path, home: Path, options: dict[str, Any]
) -> None:
    _skip_without(options["language"])
    folder = new(**options)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, env=_outside())
    assert done.returncode == 0, done.stdout + done.stderr

    build_wheel(folder, tmp_path / "dist")
    site = tmp_path / "site"
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)  # what an installer leaves there
    home.chmod(0o700)
    for words in (("enable", "loop-warner", "--yes"), ("replay", str(_sample(tmp_path)), "--json")):
        program = [sys.executable, "-m", "ally_plugins", *words]
        done = subprocess.run(program, check=False, env=environment_for(home, site), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)["plugins"]["loop-warner"]
    assert counts["delivered"] > 10
    assert counts["messages"] == 1
    assert counts["crashes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", FEW)
def test_each_kind_keeps_the_protocol_and_the_contract(new: Callable[..., Path], options: dict[str, Any]) -> None:
    _skip_without(options["language"])
    folder = new(**options)
    run_command("check", str(folder), "--run", "--strict")
    if options["kind"] == "daemon":
        report = check_daemon(folder)
        assert report.is_ok, report
        assert not [remark for each in report.findings for remark in each.remarks]
    assert len(replay_recording(folder).messages) == 1


def _sample(tmp_path: Path) -> Path:
    from ally_plugins.replay.sample import sample_path

    with sample_path() as path:
        return Path(shutil.copy(path, tmp_path))


def _outside() -> dict[str, str]:
    """Return an environment in which pytest knows nothing of the run around it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV", "PYTHONWARN"))}


def test_the_tutorial_shows_what_is_written(new: Callable[..., Path]) -> None:
    folder = new()
    page = (Path(__file__).parents[2] / "docs" / "tutorial" / "first-plugin.md").read_text(encoding="utf-8")
    code, manifest = (page.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "toml"))
    assert code.split("\n\n\nclass")[1] in (folder / "src/loop_warner/__init__.py").read_text().split("\n\n\nclass")[1]
    assert manifest in (folder / "src/loop_warner/ally-plugin.toml").read_text()


def test_nothing_that_is_there_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_command("new", "loop-warner")
    mine = Path("loop-warner", "README.md")
    mine.write_text("mine", encoding="utf-8")
    refused = run_command("new", "loop-warner", code=1)
    assert "'loop-warner' is not empty, and nothing in it is overwritten" in refused.stderr
    assert mine.read_text(encoding="utf-8") == "mine"
    Path("file").write_text("", encoding="utf-8")
    assert "a file is in the way" in run_command("new", "other", "--into", "file", code=1).stderr
    Path("link").symlink_to("nowhere")
    assert "a file is in the way" in run_command("new", "other", "--into", "link", code=1).stderr
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Loop", "expected lower-case letters"),
        ("../loop", "expected lower-case letters"),
        ("", "expected lower-case letters"),
        ("loop-", "with a letter or digit at both ends"),
        ("none", "expected lower-case letters"),
        ("json", "hides a module of that name"),
        ("ally-plugins", "hides a module of that name"),
        ("class", "a word of Python"),
        ("2fast", "no module's name begins with a digit"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in run_command("new", name, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_language_means_a_daemon_and_a_class_is_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = json.loads(run_command("new", "build-watch", "--lang", "node", "--json").stdout)
    assert answer["kind"] == "daemon"
    assert "src/build_watch/daemon.js" in answer["files"]
    assert "expected --kind daemon" in run_command("new", "other", "--kind", "class", "--lang", "sh", code=2).stderr

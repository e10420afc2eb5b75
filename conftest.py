"""What every test and every code block of the docs gets: a home of its own, and nothing of the operator's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# `tests.kit` is imported by this name, from both folders of tests. The checkout cannot be on the path for it: the
# package lies there too, and what is tested is the installed one. pytest makes its own modules below this one.
sys.modules["tests"] = folder_of_tests = ModuleType("tests")
folder_of_tests.__path__ = [str(Path(__file__).parent / "tests")]
pytest.register_assert_rewrite("tests.kit")


FRAMEWORKS = {
    "adapters/google_adk": "google.adk",
    "adapters/langchain": "langchain",
    "adapters/openai_agents": "agents",
    "adapters/pydantic_ai_harness": "pydantic_ai_harness",  # each of its releases asks for one release of pydantic-ai
    "adapters/strands": "strands",
    "agent_hooks": "agent_hooks",
}
"""The folders of tests whose framework the others can do without, each with what is imported of it."""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would lie in
        return False


MISSING = [name for name, module in FRAMEWORKS.items() if not _is_installed(module)]
"""Those whose framework is not installed: `nox -s adapters agent_hooks` runs them, and the how-tos of these names."""
collect_ignore = [f"tests/{name}" for name in MISSING]

# A busy machine is no failure of the code, so nothing has a deadline: what must be fast is measured in benchmarks/.
# CI decides about a change, so it draws the same examples for the same code; everybody's own runs find new ones.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=50,  # half of Hypothesis's own: the soak draws twenty times as many
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("ci"), derandomize=False, max_examples=1000)
settings.load_profile("ci")  # `--hypothesis-profile soak` comes after this

# Its tests lie in a folder of its name, which pytest would take for the package if that were not there already.
with contextlib.suppress(ImportError):
    import ally_plugins_contrib  # noqa: F401


def pytest_report_header() -> str:
    """Say what is left out."""
    return f"without a framework, left out: {', '.join(MISSING) or 'nothing'}"


@pytest.fixture(scope="session")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder for temporary files of all these tests and what they start, short enough for sockets."""
    tmp_path_factory.getbasetemp()  # that of pytest is made first, in the system's folder
    folder = Path(tempfile.mkdtemp(prefix="at-"))
    folder.chmod(0o711)  # some tests are of two users
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_litter(temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves something in the folder for temporary files, be it by a process that it has killed."""
    before = _files_in(temporary_folder)
    yield
    if left := _files_in(temporary_folder) - before:
        from tests.kit.waiting import wait_until

        # Of a host that was killed the guardian removes the folder, a moment after all that ran in it has ended.
        killed = _boxes_of_killed_hosts(left)
        wait_until(lambda: not any(map(os.path.lexists, killed)), lambda: f"the end of {killed}")
    if left := _files_in(temporary_folder) - before:
        pytest.fail(f"the test has left {sorted(left)} in the folder for temporary files")


def _boxes_of_killed_hosts(files: Iterable[str]) -> list[str]:
    """Return the temporary folders of sandboxed plugins whose host is gone."""
    named = [(file, Path(file).name.split("-")) for file in files]
    return [file for file, name in named if name[:2] == ["ally", "box"] and not Path("/proc", name[2]).exists()]


def _files_in(folder: Path) -> set[str]:
    """Return what lies there, but for the claims on sockets: such a file is never removed, or two could hold it."""
    return {str(file) for file in folder.rglob("*") if file.suffix != ".claim" and file.name != f"ally-{os.geteuid()}"}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty ALLY_HOME of this test's own; the operator's real one is never read or written."""
    folder = tmp_path_factory.mktemp("home", numbered=True)
    monkeypatch.setenv("ALLY_HOME", str(folder))
    monkeypatch.delenv("ALLY_PLUGINS", raising=False)
    return folder


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    excludes=[f"docs/how-to/{Path(name).name.replace('_', '-')}.md" for name in MISSING],
    patterns=["README.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"],  # `**` is one folder to some Pythons
    fixtures=["home", "no_litter"],
).pytest()


def pytest_configure() -> None:
    """Let programs that tests start be ended: a run in the background, or by nohup, hands down ignored signals."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)  # Windows has neither
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

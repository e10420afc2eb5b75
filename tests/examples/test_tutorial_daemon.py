"""The tutorial of the first daemon, done as it says: its files written, its commands run, its agent started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tutorial is for Unix")

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-daemon.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.smoke
@pytest.mark.slow
def test_the_tutorial_does_what_it_says(home: Path, tmp_path: Path) -> None:
    folder = home / "plugins" / "failure-counter"
    folder.mkdir(parents=True)
    home.chmod(0o700)
    code, agent = blocks("python")
    (folder / "daemon.py").write_text(code)
    (folder / "ally-plugin.toml").write_text(blocks("toml")[0])
    (tmp_path / "agent.py").write_text(agent)

    def run(*words: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where python3 is ours
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
            env={**os.environ, "PATH": path, "ALLY_PLUGINS": "failure-counter"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "python3 daemon.py" in run("-m", "ally_plugins", "review")
    run("-m", "ally_plugins", "enable", "failure-counter", "--yes")
    assert "sandbox" in run("-m", "ally_plugins", "list")
    shown = run("agent.py")
    (expected,) = [text for text in blocks("text") if "SIGKILL" in text]
    assert without_times(shown) == without_times(expected)
    assert run("-m", "ally_plugins", "logs", "failure-counter").count("bash failed") == 3


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d s", "T s", text)

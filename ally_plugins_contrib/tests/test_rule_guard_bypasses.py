"""What rule-guard sees of ways around its rules is what its page says, and each of these ways is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from .rule_bypasses import BEGIN, BYPASSES, END, PAGE, Bypass, found_effect, table

if TYPE_CHECKING:
    from pathlib import Path

BASH = shutil.which("bash") or "bash"
KEY = "the-key-of-the-person"


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    """Return a folder with a home, a project and a program that must not run."""
    for each in ("home/.ssh", "home/docs", "home/x", "project", "bin"):
        (tmp_path / each).mkdir(parents=True)
    (tmp_path / "home/.ssh/id_rsa").write_text(f"{KEY}\n")
    (tmp_path / "project/words").write_text("--wipe\n")
    (tmp_path / "project/notes").symlink_to(tmp_path / "home/.ssh")
    canary = tmp_path / "bin/canary"
    canary.write_text('#!/bin/sh\n[ "$1" = --wipe ] && : > "$MARK"\n')
    canary.chmod(0o700)
    return tmp_path


@pytest.mark.parametrize("bypass", BYPASSES, ids=lambda each: f"{each.kind}: {each.line}"[:60])
def test_what_is_seen_of_a_way_around_a_rule_is_what_the_table_says(bypass: Bypass, place: Path) -> None:
    assert found_effect(bypass.line, str(place / "home"), str(place / "project")) == bypass.effect


@pytest.mark.smoke
@pytest.mark.slow
def test_each_way_around_a_rule_does_what_the_rule_forbids(place: Path) -> None:
    useless = []
    for number, bypass in enumerate(BYPASSES):
        if shutil.which(bypass.needs) is None:
            continue
        mark = place / f"mark{number}"
        env = {
            "HOME": str(place / "home"), "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "MARK": str(mark),
            "TOOL": "canary", "BIN": str(place / "bin"), "KEYFILE": str(place / "home/.ssh/id_rsa"),
        }  # fmt: skip
        shutil.copytree(place / "project", project := place / f"project{number}", symlinks=True)
        ran = subprocess.run(
            [BASH, "-c", bypass.line], env=env, cwd=project, capture_output=True, text=True, check=False, timeout=30
        )
        if not mark.exists() and KEY not in ran.stdout:
            useless.append((bypass.line, ran.stderr))
    assert useless == []


def test_the_page_has_the_table_of_these_ways() -> None:
    text = PAGE.read_text("utf-8")
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() == table()

"""When the tests are due: at once, unless they seem to set themselves off."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ally_plugins_contrib.test_watch.project import LONGEST_WAIT, Project
from ally_plugins_contrib.test_watch.watcher import Ignored

FOLDER = Path("/project")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_once(project: Project, clock: Clock, *during: str) -> float:
    """Let one run happen, in which files change; return how long it had to wait."""
    wait = project.delay(0.1)
    clock.now += wait
    project.take()
    clock.now += 1.0
    project.note(during)
    project.ended()
    return wait


def test_tests_that_write_into_their_own_project_are_run_ever_more_seldom() -> None:
    clock = Clock()
    project = Project(FOLDER, clock)
    project.note(["calc.py"])
    waits = [run_once(project, clock, "report.txt") for _ in range(12)]
    assert waits[:6] == [0.0, 0.0, 0.0, 0.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_WAIT


def test_another_file_or_a_later_change_is_run_at_once() -> None:
    clock = Clock()
    project = Project(FOLDER, clock)
    project.note(["calc.py"])
    for _ in range(6):
        run_once(project, clock, "report.txt")
    project.note(["calc.py"])
    assert project.delay(0.1) == 0.0
    project.take()
    project.ended()
    clock.now += 5.0
    project.note(["report.txt"])
    assert project.delay(0.1) == 0.0


def test_the_wait_ends_when_something_else_changes() -> None:
    async def main() -> None:
        project = Project(FOLDER, Clock())
        project.note(["report.txt"])
        project.take()
        project.note(["report.txt"])
        waiting = asyncio.create_task(project.wait_for_others(600))
        await asyncio.sleep(0)
        assert not waiting.done()
        project.note(["calc.py"])
        async with asyncio.timeout(10):
            await waiting
        assert project.take() == {"report.txt", "calc.py"}

    asyncio.run(main())


def test_names_are_below_the_folder_and_what_is_ignored_has_none() -> None:
    ignored = Ignored(FOLDER, ["docs/", "*.txt", "src/gen/*"])
    assert ignored.name_of("/project/src/a.py") == "src/a.py"
    for path in ("docs/a.py", "a.txt", "src/gen/a.py", "node_modules/x/a.js", ".git/HEAD", "a.pyc", ".pytest_cache/x"):
        assert ignored.name_of(f"/project/{path}") is None
    assert ignored.name_of("/elsewhere/a.py") is None
    assert Ignored(Path("/home/build/dist")).name_of("/home/build/dist/a.py") == "a.py"

"""test-watch: runs the project's tests when files change, and tells the agent when they break and when they are mended.

One watch for each folder, whichever number of conversations is about it; runs never overlap. What the tests print is
somebody else's text: a few lines of it are told, made inert and marked as data.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins import Ally, RefusedError, SessionEnd, SessionStart, UserMessage, action, hookimpl

from .output import broken, excerpt, failure_of, files_in_words, mended, ran_nothing
from .project import Project
from .running import Finished, run
from .watching import MISSING, changes_below, is_available

if TYPE_CHECKING:
    from ally_plugins import Task

__all__ = ["TestWatch"]

LONGEST_RUN: Final = 3600.0
"""Seconds that the action may take, whatever the setting says."""


class TestWatch:
    """Keeps one project for each folder that open conversations are about."""

    __test__ = False  # pytest takes a class of this name for a test

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self._command = str(ally.settings.get("command", "pytest -q -x"))
        self._argv = _words(self._command, "command")
        if not self._argv:
            raise ValueError("the setting 'command' is empty; expected a command such as 'pytest -q -x'")
        self._paths = _words(str(ally.settings.get("paths", ".")), "paths") or ["."]
        self._ignore = _words(str(ally.settings.get("ignore", "")), "ignore")
        self._quiet = max(0.0, float(ally.settings.get("debounce", 0.3)))
        self._timeout = min(LONGEST_RUN, max(0.1, float(ally.settings.get("timeout", 300.0))))
        self._projects: dict[Path, Project] = {}
        self._watches: dict[Path, Task] = {}

    # --- which conversation is about which folder ---

    @hookimpl
    async def ally_session_start(self, event: SessionStart) -> None:
        await self._join(event.session_id, event.focus)

    @hookimpl
    async def ally_user_message(self, event: UserMessage) -> None:
        if self._project_of(event.session_id) is None:  # it had begun before this plugin
            await self._join(event.session_id, await self._focus(event.session_id))

    @hookimpl
    async def ally_session_end(self, event: SessionEnd) -> None:
        project = self._project_of(event.session_id)
        if project is None:
            return
        del project.told[event.session_id]
        if project.owner == event.session_id or not project.told:
            await self._move(project)

    async def _join(self, session_id: str, focus: str | None) -> None:
        folder = self._folder(focus)
        if folder is None:
            self.ally.log.warning("not watching for %s: it has no folder; set `folder`", session_id)
            return
        project = self._projects.setdefault(folder, Project(folder, time.monotonic))
        project.told[session_id] = None
        if project.owner is None:
            await self._begin(project, session_id)

    async def _move(self, project: Project) -> None:
        """Let the watch go on for another conversation, or end it with the last one."""
        watch, project.owner = self._watches.pop(project.folder, None), None
        if watch is not None:
            async with project.telling:
                watch.cancel()
        if project.told:
            await self._begin(project, next(iter(project.told)))
        else:
            self._projects.pop(project.folder, None)

    async def _begin(self, project: Project, session_id: str) -> None:
        project.owner = session_id
        try:
            self._watches[project.folder] = await self.ally.start_task(
                "watching", self._watch(project), session_id=session_id
            )
        except RefusedError as refusal:
            self.ally.log.warning("not watching %s: %s", project.folder, refusal)

    async def _focus(self, session_id: str) -> str | None:
        with suppress(RefusedError):
            return (await self.ally.get_context(["focus"], session_id=session_id)).focus
        return None

    def _folder(self, focus: str | None) -> Path | None:
        chosen = str(self.ally.settings.get("folder", "")) or focus
        if not chosen:
            return None
        folder = Path(os.path.realpath(os.path.expanduser(chosen)))  # noqa: PTH111 - `~` of nobody is no crash here
        return folder if folder.is_dir() else None

    def _project_of(self, session_id: str | None) -> Project | None:
        return next((each for each in self._projects.values() if session_id in each.told), None)

    # --- watching and running ---

    async def _watch(self, project: Project) -> None:
        """Run the tests each time that files have changed, until the task is cancelled or cannot go on."""
        why = self._why_not(project)
        if why is not None:
            await self._cannot(project, why)
            return
        listening = asyncio.create_task(self._listen(project))
        try:
            while not listening.done():
                waiting = asyncio.create_task(project.wait())
                await asyncio.wait([waiting, listening], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not listening.done():
                    await self._run_after_changes(project)
            await self._cannot(project, str(listening.exception() or "the folder is gone"))
        finally:
            listening.cancel()
            await asyncio.wait([listening], timeout=1.0)

    async def _listen(self, project: Project) -> None:
        async with aclosing(changes_below(project.folder, self._paths, self._ignore, self._quiet)) as found:
            async for files in found:
                if files:
                    project.note(files)
                else:
                    await self._say(f"watching {project.folder}")

    async def _run_after_changes(self, project: Project) -> None:
        wait = project.delay(self._quiet)
        if wait:
            await self._say(f"waiting {wait:.0f} s: the tests seem to change files; add these to the setting `ignore`")
            await project.wait_for_others(wait)
        async with project.running:
            files = project.take()
            await self._say(f"running: {files_in_words(files)} changed")
            finished = await run(self._argv, project.folder, self._timeout, files)
            project.ended()
        await self._say(_in_words(finished))
        async with project.telling:
            await self._tell(project, finished, files)

    async def _tell(self, project: Project, finished: Finished, files: frozenset[str]) -> None:
        """Tell each conversation what is new to it."""
        if finished.could_not_run:
            self.ally.log.warning("the tests could not be run: %s", _in_words(finished))
        if finished.could_not_run or ran_nothing(finished):
            return
        failure = None if finished.has_passed else failure_of(finished)
        for session_id, known in list(project.told.items()):
            if failure == known:
                continue
            text = mended(finished, self._command) if failure is None else broken(finished, self._command, files)
            try:
                await self.ally.add_message("user", text, session_id=session_id, deliver_as="steer")
            except RefusedError as refusal:  # told with the next run instead
                self.ally.log.warning("a conversation was not told: %s", refusal)
            else:
                if session_id in project.told:
                    project.told[session_id] = failure

    @action(name="run-tests-now", agent=True, timeout=LONGEST_RUN)
    async def run_tests_now(self) -> dict[str, Any]:
        """Run the project's tests once, now, and return how they ended with the lines that matter."""
        project = self._project_of(self.ally.session)
        if project is None:
            return {"message": "this conversation has no folder to test; set `folder`", "passed": None}
        if (missing := self._missing_program(project)) is not None:
            return {"message": f"the tests cannot be run: {missing}", "passed": None}
        async with project.running:
            finished = await run(self._argv, project.folder, self._timeout)
            project.ended()
        return self._report(finished)

    def _report(self, finished: Finished) -> dict[str, Any]:
        lines = () if finished.has_passed else excerpt(finished.output)
        passed = None if finished.could_not_run or ran_nothing(finished) else finished.has_passed
        text = "\n".join([f"{self._command}: {_in_words(finished)}", *lines])
        return {"message": text, "passed": passed, "code": finished.code, "seconds": round(finished.seconds, 2)}

    # --- when it cannot ---

    def _why_not(self, project: Project) -> str | None:
        return self._missing_program(project) or (None if is_available() else MISSING)

    def _missing_program(self, project: Project) -> str | None:
        program = self._argv[0]
        if shutil.which(program) or (project.folder / program).is_file():
            return None
        return f"{program!r} is not found; change the setting `command`"

    async def _cannot(self, project: Project, why: str) -> None:
        self.ally.log.warning("not watching %s: %s", project.folder, why)
        await self._say(f"not watching: {why}")

    async def _say(self, text: str) -> None:
        """Tell the person how far it is, if the budget allows."""
        with suppress(RefusedError):
            await self.ally.task_progress(None, text)


def _words(text: str, setting: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the setting {setting!r} cannot be read: {error}") from None


def _in_words(finished: Finished) -> str:
    if finished.could_not_run:
        return (excerpt(finished.output) or ("it cannot be run",))[-1]
    if finished.is_timeout:
        return f"stopped after {finished.seconds:.0f} s"
    if ran_nothing(finished):
        return "there are no tests"
    return f"{'passed' if finished.has_passed else 'failed'} after {finished.seconds:.1f} s"

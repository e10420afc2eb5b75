"""The search for plugins: calls each source's `find`, and completes the results with owner, digest and environment.

A source that raises or hangs becomes one line, and the others are searched all the same. Whether a plugin may run is
decided in `catalog.decide`.
"""

from __future__ import annotations

# ruff: noqa: PTH117, PTH118, PTH119, PTH120  # strings all the way, as in `home.files`
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import orjson
from attrs import evolve, frozen

from ally_plugins.catalog.bounded_calls import BoundedCalls
from ally_plugins.catalog.home import files as locating
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.raised import describe_raised
from ally_plugins.contract.wording import describe

from .configured_sources import ChosenSource
from .folders import FOLDER, NoPlugin, check_trust, list_folders
from .found import Discovery, Found, with_terms
from .source import Search

__all__ = ["find_plugins"]

SOURCE_TIMEOUT: Final = 5.0
"""Seconds that a source of another distribution has for one `find`; ours read some thousand files in that time. Less
than `LOCK_TIMEOUT` of the home, since commands search while they hold its lock."""


def find_plugins(sources: Sequence[ChosenSource], search: Search) -> Discovery:
    """Return what all sources find, and why one found nothing. Blocks on files; not for the event loop's thread.

    Raises nothing for a source: one that raises, hangs or returns something else is a problem of the result.
    """
    projects, problems = _projects(search)
    folders, more = _folders_by_source(sources, search, projects)
    problems += more
    all_found: list[Found] = []
    failed: dict[str, str] = {}
    from_cache = False
    for chosen in sources:
        if chosen.is_built_in and chosen.source.manifest_files and not folders[chosen.name]:
            continue  # there is nothing else that it finds
        answer = _find_with(chosen, evolve(search, folders=tuple(folders[chosen.name])))
        if isinstance(answer, str):
            failed[chosen.origin] = f"its source {chosen.name!r} found nothing: {answer}"
            lost = "its plugins do not run, and their granted gates deny"
            problems.append(f"the source {chosen.name!r} found nothing: {answer}; {lost}")
        else:
            all_found += [_of_project(found, projects) for found in answer.found] if projects else answer.found
            problems += answer.problems
            from_cache |= answer.from_cache
    return Discovery(tuple(_unique(all_found)), tuple(sorted(problems)), from_cache, failed)


# --- the folders of the home ---


def _projects(search: Search) -> tuple[Mapping[str, str], list[str]]:
    """Return the folders of the home with the plugins of trusted projects, each with its project, and problems."""
    if not os.path.lexists(search.home / "projects.json"):
        return {}, []
    from ally_plugins.catalog.projects.trusted import plugin_folders  # reads TOML, and only where there is one

    try:
        return plugin_folders(Home("ally-plugins", search.home)), []
    except ConfigError as error:
        return {}, [f"{error}; until then its plugins are not found, and their granted gates deny"]


def _of_project(found: Found, projects: Mapping[str, str]) -> Found:
    """Return a plugin with the project that adds it, where one does."""
    project = projects.get(os.path.dirname(found.root))
    if project is None:
        return found
    has_durable = found.manifest is not None and found.manifest.durable
    problem = "it asks for durable events, which come of every session, and a project adds it; leave them out"
    return evolve(found, project=project, problem=found.problem or (problem if has_durable else None))


def _folders_by_source(
    sources: Sequence[ChosenSource], search: Search, projects: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the folders of each source, and problems. A folder belongs to the first source with a manifest file in it.

    Our own format comes last: another system's folder may have an `ally-plugin.toml` for what its format lacks.
    """
    by_source: defaultdict[str, list[str]] = defaultdict(list)
    marked = sorted((each for each in sources if each.source.manifest_files), key=lambda each: each.name == "folders")
    if not marked:
        return by_source, []
    folders, problems = list_folders(str(search.home / "plugins"))
    for directory in projects:
        added, wrong = list_folders(directory)
        folders += added
        problems += wrong
    for path in folders:
        owner = next((each for each in marked if _has_one(path, each.source.manifest_files)), None)
        if owner is not None:
            by_source[owner.name].append(path)
            continue
        missing = [f"no {file}" for each in sources for file in each.source.manifest_files]
        problems.append(f"the folder {path!r} has {' and '.join(missing)}")
    return by_source, problems


def _has_one(path: str, files: Iterable[str]) -> bool:
    return any(os.path.lexists(os.path.join(path, file)) for file in files)


# --- one source ---


@frozen
class _Query:
    """One call of a source's `find`."""

    chosen: ChosenSource
    search: Search

    def run(self) -> Discovery | str:
        """Return what it found, or why it found nothing."""
        try:
            return self._complete(self.chosen.source.find(self.search))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # a stranger's code
            return f"it raised {describe_raised(error)}"

    def _complete(self, answer: object) -> Discovery | str:
        if not isinstance(answer, Discovery):
            return f"it returned {describe(answer)}, expected a Discovery"
        # A stranger's list may hold anything, exceptions for one; what prints them expects texts.
        problems = [str(problem) for problem in answer.problems]
        all_found: list[Found] = []
        for found in answer.found:
            if not is_plugin_name(found.name):
                problems.append(f"the source {self.chosen.name!r} names a plugin {describe(found.name)}, which is none")
            elif self.search.about in {None, found.name}:
                all_found.append(_completed(found, self.chosen))
        return evolve(answer, found=tuple(all_found), problems=tuple(problems))


_calls: Final[dict[str, BoundedCalls]] = {}
"""By source; for the whole process, so that a search knows of a call that an earlier one has given up."""


def _find_with(chosen: ChosenSource, search: Search) -> Discovery | str:
    """Return what a source finds, or why it found nothing."""
    query = _Query(chosen, search)
    if chosen.is_built_in:  # trusted code, whose time is that of the files: no thread, no deadline
        return query.run()
    calls = _calls.setdefault(chosen.name, BoundedCalls(f"ally-source-{chosen.name}"))
    was_late = calls.is_late
    try:
        return calls.run(SOURCE_TIMEOUT, query.run)
    except TimeoutError:
        return f"it did not answer within {SOURCE_TIMEOUT:g} s{', and is still at it' if was_late else ''}"


# --- what it found ---


def _completed(found: Found, chosen: ChosenSource) -> Found:
    """Return a plugin with its source, its distribution, the digest that consent covers, and absolute paths."""
    found = evolve(found, source=chosen.name, origin=chosen.origin)
    if chosen.origin == "package":
        return found
    is_own = chosen.is_built_in
    whose = f"{FOLDER}{os.path.basename(found.root)}" if is_own else f"{chosen.name}:{found.distribution or found.name}"
    found = evolve(found, distribution=whose)
    found = _with_digest(found if is_own else _with_terms(found))
    if found.manifest is not None and found.problem is None:
        found = evolve(found, problem=_running_problem(found) or found.manifest.host_problem())
    if found.daemon is None:
        return found
    daemon = found.daemon.at(found.root) if found.root else found.daemon
    # What lies compiled beside the files that were agreed to is removed from our folders before each start; elsewhere
    # it is not ours to remove, and so left unread.
    bytecode = locating.NO_BYTECODE if is_own else locating.UNREAD_BYTECODE
    return evolve(found, daemon=evolve(daemon, env={**daemon.env, **bytecode}))


def _running_problem(found: Found) -> str | None:
    if found.is_class and not found.entry_point:
        return "its source names no way to run it; its author mends it"
    if found.bridge is not None and found.daemon is not None and found.daemon.transport != "socket":
        return "its source bridges a daemon over stdio, which needs no bridge; its author mends it"
    return None


def _with_terms(found: Found) -> Found:
    """Return a plugin with how it runs in its digest, where no file has that: a change of it needs a new consent."""
    daemon, bridge = found.daemon, found.bridge
    runs = (daemon.command, daemon.transport, daemon.socket, daemon.cwd) if daemon is not None else None
    try:
        more = (bridge.rows(), dict(bridge.data())) if bridge is not None else None
        # With sorted keys: in which order a source fills a dict is no change of how its plugin runs.
        terms = orjson.dumps([found.digest, found.entry_point, runs, more], option=orjson.OPT_SORT_KEYS)
    except Exception as error:  # noqa: BLE001  # a stranger's code, and values that JSON has not
        return evolve(found, bridge=None, manifest=None, problem=f"its bridge failed: {describe_raised(error)}")
    return evolve(found, terms=terms.decode())


def _with_digest(found: Found) -> Found:
    """Return a plugin with the hashes of all its files, or with why consent cannot cover them."""
    if not found.root:
        return evolve(found, digest=with_terms("", found.terms))
    # A relative one would be another folder in each working directory, and the consent is to one.
    if not os.path.isabs(found.root):
        problem = f"its source names the folder {found.root!r}, expected an absolute path; its author mends it"
        return evolve(found, manifest=None, problem=problem)
    try:
        check_trust(found.root)
        files = locating.folder_files(found.root)
    except (NoPlugin, OSError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        problem = f"its files cannot be agreed to: {why}"
        return evolve(found, problem=found.problem if found.manifest is None and found.problem else problem)
    return evolve(found, files=files, digest=with_terms(locating.folder_digest(files), found.terms))


def _unique(all_found: Sequence[Found]) -> Iterable[Found]:
    """Yield each plugin once; two with one name and origin are ambiguous, and become one that cannot run."""
    same: defaultdict[tuple[str, str], list[Found]] = defaultdict(list)
    for found in all_found:
        same[found.name, found.origin].append(found)
    for (name, _), each in sorted(same.items()):
        if len(each) == 1:
            yield each[0]
        else:
            places = " and ".join(sorted(repr(found.root or found.distribution) for found in each))
            problem = f"{places} both are {name!r}; remove one of them"
            # Neither of the two, since the order in which they were found would decide.
            yield evolve(each[0], manifest=None, daemon=None, problem=problem)

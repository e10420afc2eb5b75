"""`python -m ally_plugins_contrib.rule_guard`: tries rules before an agent meets them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

from . import PROJECT_FILE, project_files
from .deciding import Decision, Rules, call_of, decide
from .places import Places
from .rules import RulesError, RulesFile, built_in, read_rules

EXIT_CODES: Final = {"allow": 0, "none": 0, "ask": 3, "deny": 4}
_WRONG: Final = 2


def main(words: list[str] | None = None) -> int:
    """Run one command, print what it finds, and return its exit code."""
    given = _parser().parse_args(words)
    try:
        return int(given.run(given))
    except RulesError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program
        return _WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ally_plugins_contrib.rule_guard", description="Try rules of rule-guard."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="say what rules make of a command or of a tool's file",
        epilog="exit codes: 0 it runs, 2 a file cannot be read, 3 the person is asked, 4 it is denied",
    )
    check.add_argument("file", metavar="FILE", help="a rules file as your own one; - for the built-in rules alone")
    check.add_argument(
        "text", metavar="COMMAND", help="what a shell would be given; with --tool the path or URL of that tool"
    )
    check.add_argument(
        "--tool", default="bash", help="bash (default), read, write, edit, search, web, or an agent's own name"
    )
    check.add_argument("--project", type=Path, help="the project's folder, whose ally-rules.toml is taken too")
    check.add_argument("--json", action="store_true", help="one JSON object")
    check.set_defaults(run=_check)
    rules = commands.add_parser("rules", help="list the rules that hold")
    rules.add_argument("file", metavar="FILE", nargs="?", default="-", help="your own rules file")
    rules.add_argument("--project", type=Path, help="as above")
    rules.add_argument("--json", action="store_true", help="a JSON list")
    rules.set_defaults(run=_list)
    trust = commands.add_parser(
        "trust", help=f"print the lines for your own file that trust a project's {PROJECT_FILE} as it is now"
    )
    trust.add_argument("project", type=Path, help="the project's folder")
    trust.set_defaults(run=_trust)
    return parser


def _rules(file: str, project: Path | None) -> Rules:
    own = RulesFile()
    if file != "-":
        found = read_rules(Path(file))
        if found is None:
            raise RulesError(f"{file}: is not there; expected a rules file")
        own = found[0]
    others = [
        (found[0], found[1] in own.trusted.get(str(path.parent), ()))
        for path in (project_files(os.path.realpath(project)) if project is not None else ())
        if (found := read_rules(path)) is not None
    ]
    return Rules.of(own, others)


def _check(given: argparse.Namespace) -> int:
    project = os.path.realpath(given.project) if given.project is not None else os.path.realpath(os.curdir)
    places = Places.here(project)
    name = {"web": "url"}.get(given.tool, "path")
    is_shell = given.tool == "bash"
    arguments = {"command": given.text} if is_shell else {name: given.text}
    asked = call_of(given.tool, given.tool, arguments, places)
    decision = decide(asked, _rules(given.file, given.project), places)
    _print(decision, is_json=given.json)
    return EXIT_CODES[decision.effect]


def _print(decision: Decision, *, is_json: bool) -> None:
    if is_json:
        rule = decision.rule.name if decision.rule is not None else None
        reason = decision.reason if decision.effect != "none" else ""
        print(json.dumps({"effect": decision.effect, "rule": rule, "reason": reason}))  # noqa: T201 - as above
    elif decision.effect == "none":
        print("runs: no rule means it")  # noqa: T201
    else:
        print(f"{decision.effect}: {decision.reason}")  # noqa: T201


def _list(given: argparse.Namespace) -> int:
    found = _rules(given.file, given.project)
    if given.json:
        print(json.dumps([{"name": each.name, "effect": each.effect, "source": each.source} for each in found.rules]))  # noqa: T201
        return 0
    for each in found.rules:
        print(f"{each.effect:5}  {each.name}  ({each.source})")  # noqa: T201
    off = [each.name for each in built_in() if each.name not in {rule.name for rule in found.rules}]
    if off:
        print(f"off    {', '.join(off)}")  # noqa: T201
    print(f"{found.otherwise:5}  otherwise")  # noqa: T201
    return 0


def _trust(given: argparse.Namespace) -> int:
    path = Path(os.path.realpath(given.project)) / PROJECT_FILE
    found = read_rules(path)
    if found is None:
        raise RulesError(f"{path}: is not there; expected a rules file")
    print(f"[[trust]]\nproject = {json.dumps(str(path.parent))}\nsha256 = {json.dumps(found[1])}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

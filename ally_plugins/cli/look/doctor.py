"""`doctor`: runs the checks and shows their results, each with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json

if TYPE_CHECKING:
    from ally_plugins.cli.shell.state import State

    from .checks import CheckResult

__all__ = ["doctor"]

_MARKS: Final = {"ok": ("ok", "green"), "note": ("note", "cyan"), "warning": ("warning", "yellow"),
                 "problem": ("problem", "red")}  # fmt: skip


@command("doctor")
def doctor(state: State) -> None:
    """Check Python, platform, home, configuration, plugins, their order, journal and keyring.

    Each problem comes with its remedy. The exit code is 1 when there is a problem; warnings and notes leave it 0.

    \b
    Example:
      ally-plugins doctor
    """
    from .checks import run_checks

    findings = run_checks(state)
    has_problem = any(finding.level == "problem" for finding in findings)
    if state.as_json:
        fields = ("level", "topic", "text", "remedy")
        print_json(
            {"ok": not has_problem, "findings": [{key: getattr(each, key) for key in fields} for each in findings]}
        )
    else:
        for finding in findings:
            _show(finding)
    if has_problem:
        raise click.exceptions.Exit(REFUSED)


def _show(finding: CheckResult) -> None:
    word, colour = _MARKS[finding.level]
    echo(f"{paint(f'{word:<7}', fg=colour)}  {finding.topic}: {inert(finding.text)}")
    if finding.remedy:
        echo(f"         {paint('do:', bold=True)} {inert(finding.remedy)}")

"""What `check` prints, in each of its formats; JSON is the command's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.cli.shell.text import echo, inert, paint, print_json

if TYPE_CHECKING:
    from ally_plugins.author.findings import SourceFinding

__all__ = ["FORMATS", "rows_of"]

_SARIF: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_COLOURS: Final = {"error": "red", "warning": "yellow"}


def _shown_path(file: str) -> str:
    """Return a path as it is shown: relative where it lies below the working directory."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file


def _text(findings: Sequence[SourceFinding], summary: Sequence[str]) -> None:
    for each in findings:
        where = f"{_shown_path(each.file)}:{each.line}" if each.line else _shown_path(each.file)
        echo(f"{inert(where)}: {paint(each.level, fg=_COLOURS[each.level])}: {inert(each.text)} [{each.rule}]")
        if each.fix:
            echo(f"    {inert(each.fix)}")
    for line in summary:
        echo(line)


def rows_of(findings: Sequence[SourceFinding]) -> list[dict[str, Any]]:
    """Return findings as JSON values."""
    return [
        {"file": _shown_path(each.file), "line": each.line, "level": each.level, "rule": each.rule,
         "text": each.text, "fix": each.fix}
        for each in findings
    ]  # fmt: skip


def _github(findings: Sequence[SourceFinding], summary: Sequence[str]) -> None:
    """Print GitHub's workflow commands: a note at each line of a pull request."""
    for each in findings:
        text = each.text + (f"; {each.fix}" if each.fix else "")
        at = f",line={each.line}" if each.line else ""
        file = _escaped(_shown_path(each.file), is_property=True)
        title = _escaped(f"ally-plugins: {each.rule}", is_property=True)
        echo(f"::{each.level} file={file}{at},title={title}::{_escaped(text)}")
    for line in summary:
        echo(line)


def _escaped(text: str, *, is_property: bool = False) -> str:
    # As the runner reads it: these characters would end the value.
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text


def _sarif(findings: Sequence[SourceFinding], summary: Sequence[str]) -> None:
    """Print a SARIF 2.1.0 log, which code hosts and editors read."""
    del summary
    rules = sorted({each.rule for each in findings})
    driver = {
        "name": "ally-plugins check",
        "rules": [{"id": rule, "shortDescription": {"text": rule.replace("-", " ")}} for rule in rules],
    }
    print_json({"$schema": _SARIF, "version": "2.1.0", "runs": [{
        "tool": {"driver": driver}, "results": [_result(each) for each in findings],
    }]})  # fmt: skip


def _result(finding: SourceFinding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _shown_path(finding.file).replace(os.sep, "/")}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    text = finding.text + (f"; {finding.fix}" if finding.fix else "")
    return {
        "ruleId": finding.rule,
        "level": finding.level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }


FORMATS: Final[Mapping[str, Callable[[Sequence[SourceFinding], Sequence[str]], None]]] = {
    "text": _text,
    "github": _github,
    "sarif": _sarif,
}

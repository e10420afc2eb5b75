"""Write secret-guard's rules from the rules of gitleaks: `python import_gitleaks.py gitleaks.toml LICENSE COMMIT`.

Taken are the rules that know a credential by its own look. Left out are those that go by a name before a value, which
secret-guard has one rule for, those for what is public, and those that it does better itself. Go's syntax becomes
Python's. A rule that is nothing but a prefix and a fixed number of characters becomes the prefix and the least number,
twenty where more were wanted: makers lengthen their tokens, and what redacts must take all of one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).parents[1] / "src/ally_plugins_contrib/secret_guard/rules.toml"
NAMED: Final = r"[\w.-]{0,50}?"
"""How each rule begins that goes by a name before a value."""

OWN: Final = (
    "age-", "anthropic-", "aws-access-token", "azure-ad-", "curl-", "gcp-api-key", "github-", "gitlab-", "huggingface-",
    "jwt", "openai-", "private-key", "pypi-", "sentry-", "slack-", "square-", "stripe-", "twilio-", "vault-",
)  # fmt: skip
UNSURE: Final = ("authress-", "flutterwave-public-key", "sidekiq-", "sourcegraph-", "facebook-access-token")
"""A word such as `ext_` before dots, public, any URL's password, any forty hexadecimal digits, a number and a bar."""

HINTS: Final = {"airtable-personnal-access-token": ["pat"], "cloudflare-origin-ca-key": ["v1.0-"]}
"""Where a rule's own keywords are names that stand somewhere near: what is in the credential itself."""

END: Final = "(?![A-Za-z0-9_-])"
_STOP: Final = re.compile(r"(?:\(\?:\[\\x60'\"\\s;\]\|\\\\\[nr\]\|\$(?:\|\\b)?\)|\(\?:\[\^[^]]+\]\|\\z\)|\\b)\Z")
_PREFIXED: Final = re.compile(
    r"\(?(?P<prefix>(?:[A-Za-z0-9_-]|\\\.)*(?:[_-]|\\\.))(?:\(\?i\))?\[[^]]+\]\{(?P<least>\d+)(?:,\d+)?\}\)*"
)
_LEAST: Final = 20
_MOST: Final = 400
"""Characters of a token without a longest length: a search that has no end could be made to take for ever."""

_MOST_ENTROPY: Final = 3.0
"""Bits a character: twenty random characters have four at most, so a higher floor would lose short ones."""


def rewrite(go: str) -> list[str]:
    """Return the lines of a rule that say how the credential looks, in Python's syntax, without what is behind it."""
    body = go.removeprefix("(?i)")
    begins = body.startswith(r"\b")
    body, ends = _STOP.subn("", body.removeprefix(r"\b"))
    if (plain := _PREFIXED.fullmatch(body)) is not None:
        prefix = plain["prefix"].replace("\\", "")
        return [f'prefix = "{prefix}"', f"least = {min(int(plain['least']), _LEAST)}"]
    body = _scoped(body.replace("[[:alnum:]]", "[A-Za-z0-9]").replace(r"\z", r"\Z"))
    body = re.sub(r"\{(\d+),\}", lambda least: f"{{{least[1]},{_MOST}}}", body)
    body = f"(?i:{body})" if go.startswith("(?i)") else body
    behind = END if ends and f",{_MOST}}}" not in body else "[A-Za-z0-9_-]*"
    return [f"regex = '''{body}{behind}'''", *["begins = true"] * begins]


def _scoped(body: str) -> str:
    """Give each `(?i)` in the middle the rest of its group: Python knows it at the very beginning only."""
    while (at := body.find("(?i)")) >= 0:
        depth, end = 0, at + 4
        while end < len(body) and depth >= 0:
            if body[end] == "\\":
                end += 1
            elif body[end] == "[":
                end = body.index("]", end + 2)
            elif body[end] in "()":
                depth += 1 if body[end] == "(" else -1
            end += 1
        end -= depth < 0
        body = f"{body[:at]}(?i:{body[at + 4 : end]}){body[end:]}"
    return body


def is_taken(rule: dict[str, Any]) -> bool:
    """Say whether the rule is one that secret-guard takes."""
    regex = rule.get("regex", "")
    return bool(regex) and "path" not in rule and NAMED not in regex and not rule["id"].startswith((*OWN, *UNSURE))


def main(source: str, licence: str, commit: str) -> None:
    """Write the rules and the licence that they stand under."""
    rules = tomllib.loads(Path(source).read_text("utf-8"))["rules"]
    lines = [
        f"# Taken from https://github.com/gitleaks/gitleaks at {commit},",
        "# and changed, by rules/import_gitleaks.py.",
        "#",
    ]
    lines += [f"# {line}".rstrip() for line in Path(licence).read_text("utf-8").strip().splitlines()]
    for rule in filter(is_taken, rules):
        hints = ", ".join(f'"{word}"' for word in HINTS.get(rule["id"], rule["keywords"]))
        entropy = min(float(rule.get("entropy", 0)), _MOST_ENTROPY)
        lines += [
            "",
            "[[rules]]",
            f'kind = "{rule["id"]}"',
            f"hints = [{hints}]",
            f"entropy = {entropy}",
            *rewrite(rule["regex"]),
        ]
    TARGET.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Credentials that are known by what stands beside them: a telling name, a header, an address, a command's option.

The last are guesses. They want some disorder, and pass over variables, placeholders, names of classes and calls.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from .looks import entropy, is_mixed, is_name, is_placeholder, is_random, is_reference
from .pattern import Pattern

__all__ = ["BESIDE", "NAMED"]

_SHORTEST: Final = 6
_SHORT_RANDOM: Final = 8
_LONG_RANDOM: Final = 16
_LONGEST_VALUE: Final = 256
_SOME_ENTROPY: Final = 2.5
_HEX_ENTROPY: Final = 2.8
_MUCH_ENTROPY: Final = 3.5
"""Bits a character; see `looks.entropy`. Of sixteen digits there are four at most, of 32 random ones some 3.5."""

_LOOK_BACK: Final = 16
_COMMAND_LENGTH: Final = 200
"""Characters of a command before an option that are searched for its program."""

_NAMES: Final = (
    "[AaPpSsTt](?i:ass(?:w(?:or)?d|phrase|code)?|wd|ecret(?:[_-]?key)?|oken"
    "|pi[_-]?key|ccess[_-]?key|ccount[_-]?key|rivate[_-]?key|uth[_-]?key|igning[_-]?key)"
)
"""Passwords, pass phrases, secrets, tokens, keys. The first letter stands apart, so that the search leaps to the next
one that may begin a name: folding all of it is five times slower."""

_HINTS: Final = ("pass", "pwd", "secret", "token", "key")

_PASSWORD: Final = re.compile(r"(?i)pass|pwd")
_NOT_SECRET: Final = re.compile(
    r"(?i)(?:next|prev|page|paging|continuation|cursor|sync|resume|max|min|num|public[_-]?key|publickey)[_-]?\Z"
)
"""What before a name says that it is none: tokens that turn pages, counts, the hash of a public key."""


def _is_shown(value: str) -> bool:
    return not (is_placeholder(value) or is_reference(value))


def _is_secret_name(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _LOOK_BACK) : match.start()]
    is_inside_word = match["name"].lower() == "pass" and before[-1:].isalpha()  # bypass, compass
    return not is_inside_word and _NOT_SECRET.search(before) is None


def _is_disordered(value: str, name: str) -> bool:
    """Say whether a value may be a secret: letters and digits, for a password letters and other signs as well."""
    has_signs = _PASSWORD.search(name) is not None and any(c in "!@#$%^&*+?~=" for c in value) and " " not in value
    return (is_mixed(value) or (has_signs and any(c.isalpha() for c in value))) and entropy(value) > _SOME_ENTROPY


def _is_quoted_secret(match: re.Match[str]) -> bool:
    """Tell `password = "s3cr3t-pA55"` from `password = "Your password must have 8 characters"`."""
    value = match["secret"]
    if len(value) < (_SHORTEST if _PASSWORD.search(match["name"]) else _SHORT_RANDOM):
        return False
    if match["sign"].isspace() and (match["quote"] == "`" or match["name"].lower() == "pass"):
        return False  # prose: Pass `encoding=latin1`
    if " " in value or not _is_secret_name(match) or not _is_shown(value) or is_name(value):
        return False
    return _is_disordered(value, match["name"])


def _is_bare_secret(match: re.Match[str]) -> bool:
    """Tell `PASSWORD=s3cr3t-pA55` from code that only speaks of passwords; when in doubt it is code."""
    value = match["secret"]
    if not _is_secret_name(match) or not _is_shown(value) or not is_mixed(value) or is_name(value):
        return False
    behind = match.string[match.end() : match.end() + 1]
    if behind in {"(", "["} or (match["sign"] == ">" and behind != "<"):
        return False
    if match["sign"] in {"=", ">"}:  # written as a shell does, in an address, or as an element
        return entropy(value) > _SOME_ENTROPY
    is_disordered = entropy(value) > _MUCH_ENTROPY or (entropy(value) > _HEX_ENTROPY and is_random(value))
    return len(value) >= _LONG_RANDOM and is_disordered


def _is_line_secret(match: re.Match[str]) -> bool:
    """Tell `password: Tr0ub4dor&3` from `password: string`; a line's end comes behind it, so it is no code."""
    value = match["secret"]
    return _is_shown(value) and not is_name(value) and _is_disordered(value, "password")


def _is_random_token(match: re.Match[str]) -> bool:
    """Tell a token after `Bearer` from a word: it has digits, or the mixed case of base64."""
    value = match["secret"]
    is_cased = is_mixed(value) or not (value.islower() or value.isupper() or value.istitle())
    return is_cased and entropy(value) > _SOME_ENTROPY and not is_placeholder(value)


_WORDS_OF_EXAMPLES: Final = {"password", "passwd", "pass", "pwd", "secret", "token", "user", "username"}


def _is_url_password(match: re.Match[str]) -> bool:
    value = match["secret"]
    return value[0] not in "$<{%*[" and value.lower() not in _WORDS_OF_EXAMPLES and not is_placeholder(value)


def _is_docker_auth(match: re.Match[str]) -> bool:
    """Say whether a text is what Docker and npm keep: USER:PASSWORD in base64."""
    value = match["secret"].rstrip("=")
    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    user, colon, password = text.partition(":")
    return bool(colon and user and password) and text.isprintable()


_PROGRAMS: Final = {
    "u": r"curl|wget",
    "user": r"curl|wget",
    "a": r"redis-cli",
    "p": r"mysql\w*|mariadb[\w-]*|sshpass|mongo\w*|7z|sqlcmd|(?:docker|podman|helm|az|oc|buildah|skopeo|cf)\b.*\blogin",
    "P": r"zip|unzip|sqlcmd|bcp|osql",
    "w": r"ldap\w+",
    "U": r"curl|smbclient|rpcclient",
}
"""Which programs' option is a secret, or a user and a secret."""
_PROGRAM_HINTS: Final = (
    "curl", "wget", "redis-cli", "mysql", "mariadb", "sshpass", "mongo", " login", "7z", "sqlcmd", "zip ", "bcp ",
    "osql", "ldap", "smbclient", "rpcclient",
)  # fmt: skip
_ATTACHED: Final = re.compile(r"\b(?:mysql\w*|mariadb[\w-]*)\b")
"""Programs whose `-p` stands alone when it asks; what follows a space is a database."""
_PROGRAM: Final = {
    option: re.compile(rf"(?:^|[\s/;&|(`\"'])(?:{names})(?:\s|$)") for option, names in _PROGRAMS.items()
}
_COMMAND_END: Final = re.compile(r"(?<!\\)\n|;|&&|\|\||\|")


def _is_option_secret(match: re.Match[str]) -> bool:
    """Say whether the program that an option belongs to takes a secret there."""
    value, option = match["secret"], match["option"]
    before = match.string[max(0, match.start() - _COMMAND_LENGTH) : match.start() + 1]
    command = _COMMAND_END.split(before)[-1].replace("\\\n", " ")
    if _PROGRAM[option.lstrip("-").removeprefix("proxy-")].search(command) is None:
        return False
    if option == "-p" and match["space"] and _ATTACHED.search(command):
        return False
    return _is_shown(value) and value.lower() not in _WORDS_OF_EXAMPLES


_LONG_OPTION: Final = re.compile(r"(?:^|\s)--?[A-Za-z0-9_-]{0,40}\Z")


def _is_long_option_secret(match: re.Match[str]) -> bool:
    """Tell `--db-password s3cr3t` from a text about a password."""
    value, before = match["secret"], match.string[max(0, match.start() - 42) : match.start()]
    return (
        _LONG_OPTION.search(before) is not None
        and _is_shown(value)
        and not is_name(value)
        and _is_disordered(value, match["name"])
    )


_QUOTED: Final = Pattern(
    "secret",
    _HINTS,
    re.compile(
        rf"""(?P<name>{_NAMES})\\?["']?\]?(?P<sign>\s{{0,3}}(?:=>|:=|==|[:=,])\s{{0,3}}|\s)[bfru]?\\?(?P<quote>["'`])"""
        rf"""(?P<secret>[^"'`\s\\]{{{_SHORTEST},{_LONGEST_VALUE}}})(?=\\?(?P=quote))"""
    ),
    _is_quoted_secret,
    folds_case=True,
)
_BARE: Final = Pattern(
    "secret",
    _HINTS,
    re.compile(
        rf"""(?P<name>{_NAMES})\\?["']?\s{{0,3}}(?P<sign>=>|:=|[:=]\s|[:=]|>)\s{{0,3}}\\?["']?"""
        rf"""(?P<secret>[^\s"'`,;&<>(){{}}\[\]$\\|]{{{_SHORT_RANDOM},{_LONGEST_VALUE}}})"""
    ),
    _is_bare_secret,
    folds_case=True,
)
_AUTHORIZATION: Final = Pattern(
    "authorization",
    ("authorization",),
    re.compile(
        r"""(?i)authorization\\?["']?\s{0,3}[:=,]\s{0,3}\\?["']?(?:bearer|basic|token|bot|digest|apikey|api-key)\s{1,3}"""
        r"""(?P<secret>[\w.~+/=:-]{8,})"""
    ),
    _is_random_token,
    folds_case=True,
)
_DOCKER_AUTH: Final = Pattern(
    "registry-auth",
    ("auth",),
    re.compile(r"""auth(?<![A-Za-z0-9]auth)\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?P<secret>[A-Za-z0-9+/]{8,512}={0,2})"""),
    _is_docker_auth,
)

NAMED: Final = (_AUTHORIZATION, _DOCKER_AUTH, _QUOTED, _BARE)
"""Kinds that are known by the name of a field, so that the field's value may stand apart from it."""

BESIDE: Final = (
    _AUTHORIZATION,
    Pattern(
        "bearer-token",
        ("bearer",),
        re.compile(r"(?i)\bbearer\s{1,3}(?P<secret>[\w.~+/=-]{20,})"),
        _is_random_token,
        folds_case=True,
    ),
    Pattern(
        "url-password",
        ("://",),
        re.compile(r"://[^\s:/@\"']{0,64}:(?P<secret>[^\s/@\"']{3,256})@"),
        _is_url_password,
    ),
    Pattern(
        "azure-key",
        ("accountkey", "sharedaccesskey", "sharedsecret", "accesskey="),
        re.compile(
            r"""(?i)(?:account|sharedaccess|access)key\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?P<secret>[A-Za-z0-9+/]{30,}={0,2})"""
        ),
        lambda match: is_random(match["secret"]) and not is_placeholder(match["secret"]),
        folds_case=True,
    ),
    Pattern(
        "azure-signature",
        ("sig=",),
        re.compile(r"[?&;]sig=(?P<secret>[A-Za-z0-9%+/]{40,}={0,2})"),
        lambda match: is_random(match["secret"]),
    ),
    _DOCKER_AUTH,
    Pattern(
        "command-password",
        _PROGRAM_HINTS,
        re.compile(
            r"""(?<=\s)(?P<option>-[uU]|--(?:proxy-)?user)(?P<space>[\s=]{0,3})["']?[^\s:%"'$]{0,64}[:%](?P<secret>[^\s"']{3,256})"""
        ),
        _is_option_secret,
    ),
    Pattern(
        "command-password",
        _PROGRAM_HINTS,
        re.compile(r"""(?<=\s)(?P<option>-[paPw])(?P<space>\s{0,3})["']?(?P<secret>[^\s"'-][^\s"']{2,255})"""),
        _is_option_secret,
    ),
    Pattern(
        "command-password",
        _HINTS,
        re.compile(rf"""(?P<name>{_NAMES})\s{{1,3}}["']?(?P<secret>[^\s"'-][^\s"']{{5,{_LONGEST_VALUE}}})"""),
        _is_long_option_secret,
        folds_case=True,
    ),
    Pattern(
        "netrc-password",
        ("login ",),
        re.compile(r"\blogin\s{1,9}\S{1,128}\s{1,9}password\s{1,9}(?P<secret>\S{3,256})"),
        lambda match: _is_shown(match["secret"]),
    ),
    Pattern(
        "pgpass-password",
        (":5432:", ":5433:", ":6432:", ":*:"),
        re.compile(r"(?m)^[\w.*-]{1,64}:(?:5432|5433|6432|\*):[\w.*-]{1,64}:[\w.*-]{1,64}:(?P<secret>\S{4,256})$"),
        lambda match: _is_shown(match["secret"]),
    ),
    _QUOTED,
    _BARE,
    Pattern(
        "secret",
        ("pass", "pwd"),
        re.compile(
            r"""(?m)(?P<name>[Pp](?i:ass(?:w(?:or)?d|phrase)?|wd))\\?["']?(?:\s?:\s{1,3}|\sis:?\s)"""
            r"""(?P<secret>[^\s"'`<>(){}\[\]\\|,;][^\s"'`<>(){}\[\]\\|,;]{4,126}[^\s"'`<>(){}\[\]\\|,;.])(?=[.,;]?\s{0,8}(?:$|\\n))"""
        ),
        _is_line_secret,
        folds_case=True,
    ),
)
"""All of them, the surer ones first: their marks say more."""

"""Credentials that are known by their own look, wherever they stand: our patterns, then those of `rules.toml`."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from typing import Any, Final

from .looks import entropy, is_mixed, is_placeholder, is_random, is_wordy
from .pattern import END, Check, Kinds, Pattern

__all__ = ["CERTAIN", "FIXED"]

_WORD: Final = "[A-Za-z0-9_-]"
_LONG_RANDOM: Final = 16
_SHORTEST_KEY: Final = 80
"""Letters and digits of a private key with its marks, which have some forty."""

_SURELY_RANDOM: Final = 32
"""Characters from which on it is enough that they do not look like words, however dashes cut them up."""


def _is_given(match: re.Match[str]) -> bool:
    return not is_placeholder(match.group(), is_certain=True)


def _has_long_run(match: re.Match[str]) -> bool:
    """Tell a key from a name in kebab case: somewhere sixteen letters and digits follow each other."""
    text = match.group()
    runs = any(len(run) >= _LONG_RANDOM and (is_mixed(run) or is_random(run)) for run in re.split("[_-]", text))
    return _is_given(match) and (runs or (len(text) >= _SURELY_RANDOM and is_mixed(text) and is_random(text)))


def _has_digits(match: re.Match[str]) -> bool:
    return is_mixed(match.group()) and _is_given(match)


def _is_no_example(match: re.Match[str]) -> bool:
    """AWS's own documentation uses keys that end so; nobody's does by chance."""
    return not match.group().endswith("EXAMPLE") and _is_given(match)


def _has_body(match: re.Match[str]) -> bool:
    """Tell a key from an example of one, between whose marks stand dots."""
    return sum(map(str.isalnum, match.group())) >= _SHORTEST_KEY


def _is_token(match: re.Match[str]) -> bool:
    """Tell what follows a maker's prefix from a name that begins with it: `npm_config_cache_directory_2`."""
    groups = match.re.groupindex
    secret = match["rest"] if "rest" in groups else match["secret"] if "secret" in groups else match.group()
    return not is_wordy(secret) and _is_given(match)


def _word(kind: str, hints: tuple[str, ...], regex: str, check: Check = _is_given, *, begins: bool = False) -> Pattern:
    """Return the pattern of a credential that is one long word."""
    return Pattern(kind, hints, re.compile(regex), check, is_word=True, begins=begins)


def _begun(prefix: str, rest: str) -> str:
    """Return the regex of a word that begins with a prefix.

    Whether a word begins is looked at behind the prefix, since a regex is found ten times faster by its first letters,
    but before the rest, which may be long.
    """
    prefix = re.escape(prefix)
    return rf"{prefix}(?:(?<![A-Za-z0-9_-]{prefix})|(?<=\\[nrt]{prefix})){rest}"


def _prefixed(kind: str, *prefixes: str, least: int = 20, check: Check = _is_token) -> tuple[Pattern, ...]:
    """Return patterns of tokens that are one of a maker's prefixes and at least so many random characters."""
    rest = rf"(?P<rest>(?:[A-Za-z0-9_=-]|\.(?=[A-Za-z0-9_=-])){{{least},}}+)"  # not the full stop behind it
    return tuple(_word(kind, (prefix,), _begun(prefix, rest), check) for prefix in prefixes)


_PEM: Final = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_LINES: Final = r"""(?:(?:\\[nr]|[\s"'+,>|])*+[A-Za-z0-9+/=]{20,}+)++"""

_OURS: Final = (
    _word(
        "aws-access-key",
        ("AKIA", "ASIA", "ABIA", "ACCA", "A3T"),
        r"A(?:KIA|SIA|BIA|CCA|3T[A-Z0-9])[0-9A-Z]{16}(?![0-9A-Za-z])",
        _is_no_example,
    ),
    _word("github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,}"),
    _word("github-token", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{22,}"),
    *_prefixed(
        "gitlab-token",
        "glpat-", "gldt-", "glrt-", "glrtr-", "glptt-", "glcbt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-",
        "glffct-", "glwt-", "GR1348941",
    ),
    Pattern(
        "slack-token", ("xox", "xapp"), re.compile(r"(?:xox[a-fo-s]|xapp)[-.][A-Za-z0-9.%-]{10,}"), _has_digits
    ),
    _word(
        "slack-webhook",
        ("hooks.slack.com/",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[A-Za-z0-9_/+-]{20,})",
        _has_digits,
    ),
    _word("discord-webhook", ("/webhooks/",), r"/webhooks/[0-9]{15,21}/(?P<secret>[A-Za-z0-9_-]{40,})", _is_token),
    _word("google-api-key", ("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    _word("google-refresh-token", ("1//0",), r"1//0(?<![A-Za-z0-9_/-]1//0)[A-Za-z0-9_-]{30,}", _is_token),
    *_prefixed("google-oauth", "GOCSPX-", "ya29."),
    _word("telegram-bot-token", (":A",), rf"(?<![0-9])[0-9]{{6,12}}:A[A-Za-z0-9_-]{{32,36}}{END}", _is_token),
    _word("twilio-api-key", ("SK",), rf"SK[0-9a-f]{{32}}{END}", begins=True),
    _word("azure-client-secret", ("Q~",), r"[\w~.]{3}[0-9]Q~[\w~.-]{30,34}(?![\w~-])", _is_token, begins=True),
    _word("age-secret-key", ("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9]{40,}"),
    _word("mailchimp-key", ("-us",), rf"[0-9a-f]{{32}}-us[0-9]{{1,2}}{END}", begins=True),
    _word("mailgun-key", ("key-",), rf"key-[0-9a-f]{{32}}{END}", begins=True),
    _word("crates-token", ("cio",), rf"cio[A-Za-z0-9]{{32}}{END}", _is_token, begins=True),
    _word("amazon-mws-key", ("amzn.mws.",), r"amzn\.mws\.[0-9a-f-]{36}"),
    _word("twitter-bearer-token", ("A" * 20,), r"A{20,24}(?!A)[A-Za-z0-9%_-]{40,200}", _is_token, begins=True),
    _word("square-token", ("EAAA",), rf"EAAA[A-Za-z0-9_-]{{60}}{END}", _is_token, begins=True),
    *_prefixed("square-token", "sq0csp-", "sq0atp-", "sq0idp-"),
    Pattern(
        "discord-bot-token",
        ("discord", "bot ", "token"),
        re.compile(rf"[MNO][A-Za-z0-9_-]{{23,27}}\.[A-Za-z0-9_-]{{6}}\.[A-Za-z0-9_-]{{27,40}}{END}"),
        _is_token,
        folds_case=True,
        begins=True,
    ),
    *_prefixed("pypi-token", "pypi-AgEI", "pypi-AgEN"),
    *_prefixed("huggingface-token", "hf_", "api_org_"),
    *_prefixed("vault-token", "hvs.", "hvb.", "hvr."),
    *_prefixed("docker-token", "dckr_pat_", "dckr_oat_"),
    *_prefixed("atlassian-token", "ATATT3", "ATCTT3", "ATBB"),
    *_prefixed("tailscale-key", "tskey-"),
    *_prefixed("stripe-webhook-secret", "whsec_"),
    *_prefixed("sentry-token", "sntrys_", "sntryu_"),
    *_prefixed("newrelic-key", "NRAK-", "NRII-", "NRJS-", least=19),
    *_prefixed("doppler-token", "dp.st.", "dp.sa.", "dp.ct.", "dp.scim.", "dp.audit."),
    *_prefixed(
        "api-token",
        "gsk_", "xai-", "r8_", "nvapi-", "pplx-", "lsv2_pt_", "lsv2_sk_", "pcsk_", "tvly-", "jina_", "sbp_",
        "sb_secret_", "nfp_", "rnd_", "figd_", "CCIPAT_", "bkua_", "CFPAT-", "tfp_", "secret_", "phx_", "vck_", "cfut_",
        "cfat_", "lin_oauth_", "shpua_", "EAAG", "glsa_", "glc_", "AQVN", "pat-na1-", "pat-eu1-", "ddapp_", "API-",
    ),
    *_prefixed("api-key", "sk-", "sk_", "rk-", "rk_", check=_has_long_run),
    _word("mapbox-token", ("sk.eyJ",), _begun("sk.eyJ", rf"{_WORD}{{10,}}+\.{_WORD}{{10,}}")),
    _word("jwt", ("eyJ",), _begun("eyJ", rf"{_WORD}{{10,}}+\.eyJ{_WORD}{{10,}}+\.{_WORD}{{10,}}")),
    Pattern(  # the whole block; nothing between the marks may be another mark, so no text is read twice
        "private-key",
        ("PRIVATE KEY",),
        re.compile(_PEM + r"[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"),
        _has_body,
    ),
    Pattern("private-key", ("PRIVATE KEY",), re.compile(_PEM + _LINES)),  # a block that was cut: what is there of it
    Pattern("private-key", ("Private-Lines:",), re.compile(rf"Private-Lines: [0-9]{{1,4}}(?P<secret>{_LINES})")),
)  # fmt: skip


def _rules() -> tuple[Pattern, ...]:
    text = (files(__package__) / "rules.toml").read_text("utf-8")
    rules: list[dict[str, Any]] = tomllib.loads(text)["rules"]
    return tuple(pattern for rule in rules for pattern in _patterns(rule))


def _patterns(rule: dict[str, Any]) -> tuple[Pattern, ...]:
    """Return what a rule of the file means: a prefix and random characters, or a regex and the least entropy."""
    if "prefix" in rule:
        return _prefixed(rule["kind"], rule["prefix"], least=rule["least"])
    floor, regex = rule["entropy"], re.compile(rule["regex"])

    def check(match: re.Match[str]) -> bool:
        return entropy(match.group()) >= floor and _is_given(match)

    hints, begins = tuple(rule["hints"]), rule.get("begins", False)
    return (Pattern(rule["kind"], hints, regex, check, folds_case=True, is_word=True, begins=begins),)


_RULES: Final = _rules()

CERTAIN: Final = Kinds((*_OURS, *_RULES))
"""Kinds that are known by their own look, wherever they stand."""

_FIXED: Final = {
    "aws-access-key", "github-token", "gitlab-token", "slack-token", "google-api-key", "age-secret-key", "vault-token",
    "pypi-token", "huggingface-token", "docker-token",
}  # fmt: skip
FIXED: Final = Kinds((*(pattern for pattern in _OURS if pattern.kind in _FIXED), *_RULES))
"""Kinds that no text takes on by chance when quotes are taken out of it, or parts of it are joined."""

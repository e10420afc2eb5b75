"""secret-guard redacts what looks like a credential, and denies what it cannot redact.

No credential is written out in this file: each is put together, so that no scanner takes it for a leak.
"""

from __future__ import annotations

import asyncio
import base64
import json
import runpy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import GateRefused, Message, ToolCall, ToolResult, hookimpl
from ally_plugins.testing import PluginHarness
from ally_plugins_contrib.secret_guard import SecretGuard
from ally_plugins_contrib.secret_guard.patterns import find_kind, redact_text
from ally_plugins_contrib.secret_guard.redacting import find_hidden, redact, redact_all
from tests.kit.credentials import AWS, CREDENTIALS, GITHUB, HEX, MIXED, PEM, UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.testing import BlockingHarness

    Start = Callable[..., BlockingHarness]

ASSIGNED = [
    ('password = "c0rrect-h0rse"', "c0rrect-h0rse"),
    ("DB_PASSWORD=c0rrecth0rse9", "c0rrecth0rse9"),
    ('"api_key": "a8f3k2l9d0s7"', "a8f3k2l9d0s7"),
    ('{\\"secret\\": \\"a8f3k2l9d0s7\\"}', "a8f3k2l9d0s7"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzKEY1", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzKEY1"),
    ("export TOKEN=d41d8cd98f00b204e980", "d41d8cd98f00b204e980"),
    ("curl -H 'Authorization: Bearer a8f3k2l9d0s7XyZ'", "a8f3k2l9d0s7XyZ"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    ("postgres://app:s3cr3t@db:5432/x", "s3cr3t"),
    ("git clone https://x-access-token:a8f3k2l9@github.com/a/b", "a8f3k2l9"),
    (f"https://hooks.slack.com/services/T02ABCD12/B02ABCD34/{MIXED[:24]}", f"T02ABCD12/B02ABCD34/{MIXED[:24]}"),
    (f"AccountName=a;AccountKey={MIXED}{MIXED}==;EndpointSuffix=core.windows.net", f"{MIXED}{MIXED}=="),
    (f"Endpoint=sb://a.example;SharedAccessKeyName=k;SharedAccessKey={MIXED}+/=", f"{MIXED}+/="),
    ("curl -sS -u deploy:Tr0ub4dor https://ci.acme.io", "Tr0ub4dor"),
    ("curl -X POST \\\n  --user 'deploy:Tr0ub4dor&3' \\\n  https://ci.acme.io", "Tr0ub4dor&3"),
    ("mysql -h db -u root -pTr0ub4dor shop", "Tr0ub4dor"),
    ("docker exec db mysqldump -uroot -p'Tr0ub4dor&3' shop", "Tr0ub4dor&3"),
    ("mysql --user=root --password=Tr0ub4dor shop", "Tr0ub4dor"),
    ("sshpass -p Tr0ub4dor ssh dana@build", "Tr0ub4dor"),
    ("redis-cli -h cache -a Tr0ub4dor ping", "Tr0ub4dor"),
    ("docker login -u robot -p Tr0ub4dor ghcr.io", "Tr0ub4dor"),
    ("deploy --db-password Tr0ub4dor now", "Tr0ub4dor"),
    ('{"auths": {"ghcr.io": {"auth": "cm9ib3Q6VHIwdWI0ZG9y"}}}', "cm9ib3Q6VHIwdWI0ZG9y"),
    ("//registry.npmjs.org/:_auth=cm9ib3Q6VHIwdWI0ZG9y", "cm9ib3Q6VHIwdWI0ZG9y"),
    ("machine ci.acme.io\n  login robot\n  password Tr0ub4dor", "Tr0ub4dor"),
    ("db:5432:shop:app:Tr0ub4dor", "Tr0ub4dor"),
    ("database:\n  password: Tr0ub4dor&3\n", "Tr0ub4dor&3"),
    ("my password is Tr0ub4dor&3.", "Tr0ub4dor&3"),
    ('password = "correct-horse!battery"', "correct-horse!battery"),
    ("CREATE USER a PASSWORD 'Tr0ub4dor';", "Tr0ub4dor"),
    ("<password>Tr0ub4dor</password>", "Tr0ub4dor"),
    ("DB_PASS=Tr0ub4dor", "Tr0ub4dor"),
    (f"x-api-key: {HEX}", HEX),
    (f"const apiToken = `{MIXED[:24]}`", MIXED[:24]),
    (f"  apiKey: {MIXED[:20]}", MIXED[:20]),
    (f"HEROKU_API_KEY={UUID}", UUID),
]
INNOCENT = [
    "the token is passed in the Authorization header",
    "password = getpass()",
    "password: str = field(repr=False)",
    "token = tokens[0]; next_token=eyaB3dE5gH7jK9mN1pQ3sT5vX7",
    "max_tokens=4096, tokens: 128000, token_count=1234567890",
    'password="changeme1example"',
    "PASSWORD=$DB_PASSWORD1",
    'token = "${{ secrets.GITHUB_TOKEN1 }}"',
    "postgres://user:$PASSWORD@host/db",
    "http://localhost:8080/path@v2",
    "git@github.com:owner/repo.git ssh://git@host:22/x",
    "commit 8c1f20e5b7d90a1c2e3f4a5b6c7d8e9f0a1b2c3d",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ".sk-fading-circle .sk-circle12:before { }",
    "task-0123456789abcdefghijklmnop",
    "-----BEGIN PUBLIC KEY----- and -----BEGIN PRIVATE KEY----- are markers",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkq\n-----END CERTIFICATE-----",
    "eyJ is how base64 of JSON begins",
    "import secrets; secrets.token_hex(16)",
    "AKIA is the prefix, ghp_ too, xoxb- as well",
    "/home/dana/projects/tidewater/src/tidewater/feed.py:31",
    "keys = ['a', 'b']; api_key_name = 'production'",
    "AWS_ACCESS_KEY_ID=" + "AKIAI44QH8DHB" + "EXAMPLE",
    "aws_secret_access_key = je7MtGbClwBF/2Zp9Utk/h3yCo8nvb" + "EXAMPLEKEY",
    "mscorlib, Version=2.0.0.0, Culture=neutral, PublicKeyToken=b77a5c561934e089",
    "token: OAuth2AccessTokenProvider",
    'secret = "Pbkdf2SecretKeyFactory"',
    "app.secret=com.acme.auth.Aes256Secret",
    'password = "Your password must have 8 characters"',
    "GITHUB_TOKEN=<your-token>",
    "api_key: YOUR_API_KEY_1",
    "token = 'ghp_" + "x" * 36 + "'",
    "glpat-" + "X" * 20,
    "sk_" + "live_" + "x" * 24,
    "pk_" + "live_" + MIXED[:24],
    f"account AC{HEX}",
    f'md5: {HEX}, etag: W/"{HEX}"',
    f'"integrity": "sha512-{MIXED * 2}=="',
    f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{MIXED} dana@laptop",
    "npm_config_registry_mirror_timeout_2=30 npm_lifecycle_event=test",
    "hf_hub_download_with_retries_and_backoff_v2(repo)",
    "napi_get_value_string_latin1(env, value)",
    "mysql -u root -p shop2024",
    "curl -u deploy https://ci.acme.io && docker run -u 1000:1000 -p 8080:8080 nginx",
    'curl -u "$USER:$PASS" https://ci.acme.io; ssh -p 2222 dana@build1',
    'curl -u "<user>:<password>" https://ci.acme.io',
    "password: ********",
    "password: vault:secret/data/db1#password",
    "postgres://user:password@localhost/db",
    "bypass = 'abc12345'",
    "Pass `warn_if_no_tools2=False` or 'utf8=True'; a token `max_tokens2`",
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
]


SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@pytest.mark.parametrize(("kind", "secret"), CREDENTIALS.values(), ids=CREDENTIALS)
@pytest.mark.parametrize("around", ["{}", "before {} after", "X={}", "'{}'", '"{}"', "({}),", "\\n{}\\n", "\n{}\n"])
def test_a_credential_is_replaced_by_its_kind_and_nothing_else_is(kind: str, secret: str, around: str) -> None:
    redacted = redact_text(around.format(secret))
    assert redacted == around.format(f"[redacted:{kind}]")


@pytest.mark.parametrize(("text", "secret"), ASSIGNED)
def test_what_is_assigned_to_a_telling_name_is_replaced_and_the_rest_stays(text: str, secret: str) -> None:
    redacted = redact_text(text)
    assert secret not in redacted
    before, _, after = text.partition(secret)
    assert redacted.startswith(before)
    assert redacted.endswith(after)


@pytest.mark.parametrize("text", INNOCENT)
def test_an_innocent_text_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text
    assert redact_all(text) == text
    assert find_hidden(text) is None


def test_a_key_in_one_line_of_json_is_found() -> None:
    text = json.dumps({"key": PEM, "n": 1})
    assert redact_text(text) == '{"key": "[redacted:private-key]", "n": 1}'


def test_a_key_that_was_cut_is_redacted_as_far_as_it_goes() -> None:
    cut = PEM[: PEM.index("-----END")] + "... (output truncated)"
    assert redact_text(cut) == "[redacted:private-key]\n... (output truncated)"


def test_every_occurrence_is_replaced() -> None:
    assert redact_text(f"{AWS} {AWS},{GITHUB}\n{AWS}").count("[redacted:") == 4


def test_nested_values_are_searched_all_the_way_down() -> None:
    value = {"a": [1, None, {"b": f"x {AWS}"}], "env": {"PASSWORD": "c0rrecth0rse"}, "ok": True}
    assert redact(value) == {
        "a": [1, None, {"b": "x [redacted:aws-access-key]"}],
        "env": {"PASSWORD": "[redacted:secret]"},
        "ok": True,
    }


def test_a_clean_value_is_the_very_same_object() -> None:
    value = {"a": [1, None, {"b": "text"}], "n": 1.5}
    assert redact(value) is value
    assert redact_all(value) is value


@pytest.mark.slow
@given(VALUES)
def test_any_value_is_searched_without_an_error_and_a_second_time_changes_nothing(value: Any) -> None:
    find_hidden(value)
    once = redact_all(value)
    assert redact_all(once) == once


@given(st.text(), st.sampled_from(sorted(CREDENTIALS)), st.text())
def test_a_credential_is_found_in_any_surroundings(before: str, name: str, after: str) -> None:
    _, secret = CREDENTIALS[name]
    text = f"{before} {secret} {after}"
    assert secret not in redact_text(text)
    assert find_kind(redact_text(text)) is None


# --- as a plugin ---


def test_tool_input_is_redacted_before_the_tool_and_the_events_see_it(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    command = f"curl -s -H 'Authorization: Bearer {GITHUB}' https://api.github.com/repos/example/feeds"
    harness.run_tool("bash", {"command": command}, "ok")
    assert GITHUB not in str(harness.events)
    call = harness.transform_input("bash", {"command": command})
    assert call.arguments["command"] == command.replace(GITHUB, "[redacted:github-token]")
    assert harness.gate(call).is_allowed


WRITTEN = [
    ("write_file", {"path": ".env", "content": f"A=1\nTOKEN={GITHUB}\n"}),
    ("Edit", {"file_path": "config.py", "old_string": "x = 1", "new_string": f"key = '{AWS}'"}),
    ("MultiEdit", {"file_path": "a.py", "edits": [{"old_string": "x", "new_string": AWS}]}),
    ("apply_patch", {"patch": f"+TOKEN={GITHUB}"}),
    ("files", {"filename": "a.json", "document": {"keys": [AWS]}}),
    ("bash", {"command": f"echo TOKEN={GITHUB} >> .env"}),
    ("bash", {"command": f"cat > .env <<EOF\nTOKEN={GITHUB}\nEOF"}),
    ("bash", {"command": f"echo {AWS} | tee -a keys"}),
    ("bash", {"command": f"sed -i s/TOKEN=.*/TOKEN={GITHUB}/ .env"}),
    ("bash", {"command": f'python3 -c \'open(".env", "w").write("{GITHUB}")\''}),
    ("run", {"argv": ["gh", "secret", "set", "TOKEN", "--body", GITHUB]}),
]
SENT = [
    ("bash", {"command": f"curl -s -H 'Authorization: Bearer {GITHUB}' https://api.github.com 2>/dev/null"}),
    ("bash", {"command": f"git log -S {GITHUB} 2>&1 | head"}),
    ("fetch", {"url": "https://x.example", "headers": {"Authorization": f"Bearer {GITHUB}"}}),
    ("edit_file", {"path": ".env", "old_text": f"TOKEN={GITHUB}", "new_text": "TOKEN=${TOKEN}"}),
    ("search", {"pattern": GITHUB, "path": "."}),
    ("TodoWrite", {"todos": [{"content": f"rotate {GITHUB}"}]}),
]


@pytest.mark.parametrize(("tool", "arguments"), WRITTEN)
def test_a_call_that_would_write_a_mark_is_denied_and_told_the_way_out(
    ally_harness: Start, tool: str, arguments: dict[str, Any]
) -> None:
    harness = ally_harness(SecretGuard)
    ruling = harness.gate(harness.transform_input(tool, arguments))
    assert ruling.is_denied
    assert "an environment variable" in ruling.reason
    assert GITHUB not in ruling.reason


@pytest.mark.parametrize(("tool", "arguments"), SENT)
def test_a_call_that_only_sends_or_seeks_a_mark_runs(ally_harness: Start, tool: str, arguments: dict[str, Any]) -> None:
    harness = ally_harness(SecretGuard)
    call = harness.transform_input(tool, arguments)
    assert "[redacted:" in str(call.arguments)
    assert harness.gate(call).is_allowed


def test_a_mark_that_the_agent_copies_from_what_it_read_is_not_written_either(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    read = harness.transform_output(f"TOKEN={GITHUB}\nPORT=1\n").output
    assert harness.gate("write_file", {"path": ".env", "content": read.replace("1", "2")}).is_denied
    assert harness.gate("write_file", {"path": ".env", "content": "TOKEN=${TOKEN}\nPORT=2\n"}).is_allowed


def test_what_the_person_types_is_redacted_before_it_is_recorded(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    encoded = base64.b64encode(GITHUB.encode()).decode()
    harness.person_says(f"use {GITHUB}, in base64 {encoded}")
    assert "use [redacted:github-token], in base64 [redacted:github-token]" in str(harness.events)
    assert GITHUB not in str(harness.events)
    assert encoded not in str(harness.events)


ENCODED = base64.b64encode(GITHUB.encode()).decode()


def test_an_answer_is_redacted_before_it_is_shown_and_recorded(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    shown = harness.model_answers(f"the key is {GITHUB}, in base64 {ENCODED}")
    assert shown.content == "the key is [redacted:github-token], in base64 [redacted:github-token]"
    assert harness.model_answers("all is well").content == "all is well"
    assert GITHUB not in str(harness.events)
    assert ENCODED not in str(harness.events)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"keys": [{"token": GITHUB}], "note": ENCODED}),
        json.dumps({GITHUB: 1, "é": ENCODED}),
        json.dumps(f"it is {GITHUB}"),
        json.dumps({"token": GITHUB}).replace("ghp_", "\\u0067hp\\u005f"),
        json.dumps([GITHUB[:20], GITHUB[20:]]),
    ],
)
def test_of_a_structured_answer_it_is_json_that_is_left(text: str, ally_harness: Start) -> None:
    shown = ally_harness(SecretGuard).model_answers(text, is_structured=True).content
    assert find_hidden(json.loads(shown)) is None
    assert "[redacted:github-token]" in shown
    clean = '{"a": [1, "x"],"b":null}'
    assert ally_harness(SecretGuard).model_answers(clean, is_structured=True).content == clean
    with pytest.raises(GateRefused, match=r"the answer holds a credential \(github-token\)"):
        ally_harness(SecretGuard, grants=["gate:answer"]).model_answers(text, is_structured=True)


class Blind(SecretGuard):
    """Stands for a guard whose transforms fail, and are left out of the chain then."""

    @hookimpl
    def ally_transform_answer(self, message: Message) -> None:
        raise MemoryError(message.role)

    @hookimpl
    def ally_transform_user_message(self, message: Message) -> None:
        raise MemoryError(message.role)


@pytest.mark.parametrize("text", [f"it is {GITHUB}", f"it is {ENCODED}", f'it is "{GITHUB[:20]}" + "{GITHUB[20:]}"'])
def test_what_its_transforms_have_left_in_words_is_denied(text: str, ally_harness: Start) -> None:
    for harness in (ally_harness(Blind), ally_harness(SecretGuard, grants=["gate:answer", "gate:user_message"])):
        with pytest.raises(GateRefused, match=r"the answer holds a credential \(github-token\)") as caught:
            harness.model_answers(text)
        with pytest.raises(GateRefused, match=r"what you wrote holds a credential \(github-token\)"):
            harness.person_says(text)
        assert harness.model_answers("all is well").content == harness.person_says("all is well").content
        assert GITHUB[20:] not in f"{caught.value}{harness.events}"


def test_by_its_gate_alone_an_answer_is_held_by_sentences_and_with_its_transform_whole() -> None:
    async def hold(grants: list[str] | None = None) -> str | None:
        async with PluginHarness(SecretGuard, grants=grants) as harness:
            return harness.session.answer_hold

    assert asyncio.run(hold()) == "whole"
    assert asyncio.run(hold(["gate:answer:sentence"])) == "sentence"


def test_output_error_and_data_are_redacted(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    result = ToolResult(success=False, output=f"key {AWS}", error=f"bad key {AWS}", data={"rows": [[AWS]]})
    seen = harness.transform_output(result)
    assert seen == ToolResult(
        success=False,
        output="key [redacted:aws-access-key]",
        error="bad key [redacted:aws-access-key]",
        data={"rows": [["[redacted:aws-access-key]"]]},
    )


def test_a_message_of_another_plugin_is_redacted_before_it_is_recorded(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    harness.other.add_message("user", f"use {GITHUB}", session_id="s1")
    (message,) = harness.safe_point()
    assert message.content == "use [redacted:github-token]"
    assert message.metadata["sourcePlugin"] == "other"


HIDDEN = {
    "a field's name": {"env": {GITHUB: "x"}},
    "base64": {"command": f"echo {base64.b64encode(GITHUB.encode()).decode()} | base64 -d"},
    "base64 for urls": {"data": base64.urlsafe_b64encode(f"??>>{AWS}".encode()).decode()},
    "base64 of a text": {"data": base64.b64encode(f'{{"token": "{GITHUB}"}}'.encode()).decode()},
    "quotes": {"command": f'echo {GITHUB[:8]}""{GITHUB[8:]}'},
    "a backslash": {"command": f"echo {AWS[:8]}\\{AWS[8:]}"},
    "a sum": {"code": f"token = '{GITHUB[:20]}' + '{GITHUB[20:]}'"},
    "a list": {"argv": ["print", GITHUB[:20], GITHUB[20:]]},
    "percent signs": {"url": "https://x/?t=" + GITHUB.replace("_", "%5F")},
}


@pytest.mark.parametrize("arguments", HIDDEN.values(), ids=HIDDEN)
def test_what_cannot_be_redacted_is_denied_with_a_reason_that_does_not_repeat_it(
    ally_harness: Start, arguments: dict[str, Any]
) -> None:
    harness = ally_harness(SecretGuard)
    call = harness.transform_input(ToolCall("bash", arguments))
    ruling = harness.gate(call)
    assert ruling.is_denied
    assert "a credential (" in ruling.reason
    assert not [part for part in (GITHUB[4:], AWS[4:], GITHUB[20:]) if part in ruling.reason]


@pytest.mark.parametrize("arguments", HIDDEN.values(), ids=HIDDEN)
def test_in_what_a_tool_returned_the_text_around_a_hidden_credential_goes(arguments: dict[str, Any]) -> None:
    redacted = redact_all({**arguments, "other": "stays"})
    assert "[redacted:" in str(redacted)
    assert redacted["other"] == "stays"
    assert find_hidden(redacted) is None


def test_a_message_with_an_encoded_credential_does_not_enter(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard)
    with pytest.raises(GateRefused, match=r"a credential \(github-token\)"):
        harness.other.add_message("user", base64.b64encode(GITHUB.encode()).decode(), session_id="s1")


def test_without_the_grant_to_transform_the_gate_denies_what_stands_there_openly(ally_harness: Start) -> None:
    harness = ally_harness(SecretGuard, grants=["gate:tool_call"])
    assert harness.gate("bash", {"command": f"echo {AWS}"}).is_denied
    assert harness.gate("login", {"password": "c0rrecth0rse"}).is_denied
    assert harness.gate("bash", {"command": "echo hello"}).is_allowed


class Failing(SecretGuard):
    """Stands for a guard with a fault, or one that was given more than it can search in time."""

    @hookimpl
    def ally_transform_tool_output(self, result: ToolResult) -> None:
        raise MemoryError(str(result.success))


def test_set_to_block_nothing_passes_that_it_could_not_search(ally_harness: Start) -> None:
    harness = ally_harness(Failing, transform_on_error="block")
    seen = harness.run_tool("bash", {"command": "env"}, f"KEY={AWS}")
    assert not seen.success
    assert AWS not in str(seen)
    assert AWS not in str(harness.events)


def test_nothing_of_it_is_ever_logged(ally_harness: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    harness = ally_harness(SecretGuard)
    harness.run_tool("bash", {"command": f"echo {GITHUB}"}, f"{AWS}")
    harness.gate("bash", {"x": base64.b64encode(GITHUB.encode()).decode()})
    assert GITHUB not in caplog.text
    assert AWS not in caplog.text


# --- time ---

N = 100_000
EVIL = {
    "jwt starts": "eyJ" * (N // 3),
    "jwt parts": "eyJaaaaaaaaaa." * (N // 14),
    "jwt after escapes": "\\neyJaaaaaaaaaaaa" * (N // 16),
    "pem begins": "-----BEGIN PRIVATE KEY-----" * (N // 27),
    "pem without an end": "-----BEGIN PRIVATE KEY-----\n" + "-x" * (N // 2),
    "pem of spaces": "-----BEGIN PRIVATE KEY-----" + " \n" * (N // 2),
    "pem of short lines": "-----BEGIN PRIVATE KEY-----" + ("A" * 19 + " ") * (N // 20),
    "names": "password" * (N // 8),
    "assignments": "token=" * (N // 6),
    "quoted assignments": 'password: "a1b2c3d4" ' * (N // 21),
    "a long value": "token=" + "a1" * (N // 2),
    "headers": "authorization: bearer " * (N // 22),
    "urls": "://" * (N // 3) + "://a:" * (N // 5),
    "url passwords": ("://" + "a" * 64 + ":" + "b" * 256) * (N // 324),
    "base64": "QUJD" * (N // 4),
    "many base64": ("QUJD" * 6 + " ") * (N // 25),
    "quotes": "\"'" * (N // 2),
    "sums": "\" + '" * (N // 5),
    "escapes": "%41" * (N // 3) + "\\" * N,
    "prefixes": "glpat-" * (N // 6) + " hvs." * (N // 5) + "npm_" * (N // 4),
    "prefixes after escapes": "\\nnpm_" * (N // 6) + "\\nsk-" * (N // 5),
    "dots": ("hvs." + "a." * 50) * (N // 104),
    "facebook tokens": "EAAM" * (N // 4) + "_",
    "telegram numbers": "1234567890:A" * (N // 12),
    "commands": "curl -u a: mysql -p " * (N // 20),
    "options": "curl " + "-u a:bcd " * (N // 9),
    "long options": "--password " * (N // 11),
    "logins": "login a password " * (N // 17) + "login " * (N // 6),
    "lines of passwords": "password: a" + " " * N + "password: " * (N // 10),
    "pgpass": ("a:5432:" * (N // 7)),
    "azure": "AccountKey=" * (N // 11) + "sig=" * (N // 4),
    "auths": "auth=QUJD" * (N // 9),
    "long words": "a1" * (N // 2) + "." + "Q~" * (N // 2),
}


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
def test_time_grows_with_the_text_and_no_faster(text: str) -> None:
    start = time.process_time()
    redact_all({"x": [text]})
    find_hidden({"x": [text]})
    assert time.process_time() - start < 3  # quadratic would be minutes; linear is a tenth of a second


# --- what the benchmark measures ---

CORPUS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "secret_corpus.py"))


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_of_46_fabricated_credentials_two_pass_at_most(seed: int) -> None:
    passed = [name for name, (text, secret) in CORPUS["credentials"](seed).items() if secret in redact_all(text)]
    assert len(passed) <= 2, passed


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_of_44_look_alikes_three_are_changed_at_most(seed: int) -> None:
    alarms = [name for name, text in CORPUS["look_alikes"](seed).items() if redact_all(text) != text]
    assert len(alarms) <= 3, alarms

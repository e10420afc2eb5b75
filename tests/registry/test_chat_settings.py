from __future__ import annotations

import pytest

from ally_plugins.catalog.home.chat_settings import ChatSettings
from ally_plugins.catalog.home.config import parse_config
from ally_plugins.contract.values.errors import ConfigError


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('modle = "offline"', "chat.modle: unknown key, did you mean 'model'?"),
        ('api_key = "sk-1234"', "chat.api_key: unknown key, did you mean 'api_key_env'?"),
        ('api_key_env = "sk-proj-1234"', "chat.api_key_env: expected the name of an environment variable, not a key"),
        ('base_url = "localhost:8000"', "chat.base_url: expected an http or https address"),
        ('base_url = "https://me:hunter2@models.example"', "chat.base_url: expected an http or https address"),
        ('base_url = "file:///etc/passwd"', "chat.base_url: expected an http or https address"),
        ('base_url = "http://[::1"', "chat.base_url: expected an http or https address"),
        (
            'base_url = "https://me:hunter2@models.example\\n"',
            "chat.base_url: expected one line without control characters",
        ),
        ('api_key_env = "sk-1234\\u0007"', "chat.api_key_env: expected one line without control characters"),
        ('base_url = ["https://me:hunter2@x"]', "chat.base_url: found a list, expected a text"),
        ("context_window = 0", "chat.context_window: found 0, expected a whole number from 1"),
        ('allow = "run_command"', "chat.allow: found 'run_command', expected a list of texts"),
    ],
)
def test_a_mistake_is_named_with_what_is_expected_and_never_a_key(line: str, expected: str) -> None:
    text = error_of(f"[chat]\n{line}\n")
    assert expected in text
    assert "sk-" not in text
    assert "hunter2" not in text


def test_a_chat_that_is_no_table_is_a_mistake() -> None:
    assert "chat: found 'offline', expected a table such as" in error_of('chat = "offline"')


def test_what_is_settled_is_read_and_nothing_settled_is_the_default() -> None:
    text = """[chat]
    model = "openai-chat:qwen3"
    base_url = "http://localhost:8000/v1"
    api_key_env = "MY_KEY"
    context_window = 32000
    allow = ["run_command", "edit_file"]
    """
    assert parse_config(text, "config.toml").chat == ChatSettings(
        model="openai-chat:qwen3",
        base_url="http://localhost:8000/v1",
        api_key_env="MY_KEY",
        context_window=32000,
        allow=("run_command", "edit_file"),
    )
    assert parse_config("", "config.toml").chat == ChatSettings()

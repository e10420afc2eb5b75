from __future__ import annotations

from typing import Any

import pytest

from ally_plugins.catalog.home.chat_settings import ChatSettings
from ally_plugins.cli.chat.error_texts import error_text
from ally_plugins.cli.chat.models import NO_KEY, ModelChoice, build_model, choose_model
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.masking import MASK, Secrets, keys_of

KEY = "sk-live-0123456789"


def build(name: str, environ: dict[str, str] | None = None, **choice: Any) -> Any:
    return build_model(ModelChoice(name=name, **choice), environ or {})


def error_of(name: str, environ: dict[str, str] | None = None, **choice: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(name, environ, **choice)
    text = str(caught.value)
    assert KEY not in text
    assert "\n" not in text
    return text


# --- which model is meant


def test_an_option_wins_over_the_resumed_session_that_over_the_environment_and_that_over_the_configuration() -> None:
    settings = ChatSettings(model="openai:settled", base_url="http://settled:1/v1", context_window=9)
    environ = {"ALLY_MODEL": "openai:environ", "ALLY_BASE_URL": "http://environ:1/v1"}
    assert choose_model(ChatSettings(), {}).name == "offline"
    assert choose_model(settings, {}).name == "openai:settled"
    assert choose_model(settings, environ).name == "openai:environ"
    assert choose_model(settings, environ, last="openai:last").name == "openai:last"
    chosen = choose_model(settings, environ, model="openai:option", last="openai:last", base_url="http://option:1/v1")
    assert (chosen.name, chosen.base_url, chosen.context_window) == ("openai:option", "http://option:1/v1", 9)
    assert choose_model(settings, environ).base_url == "http://environ:1/v1"


def test_an_address_that_is_none_or_carries_a_password_is_refused_and_not_repeated() -> None:
    for address in ("localhost:8000", "ftp://x", f"http://me:{KEY}@host/v1"):
        with pytest.raises(ConfigError, match="the base url is no address") as caught:
            choose_model(ChatSettings(), {}, base_url=address)
        assert KEY not in str(caught.value)


# --- making it


def test_the_offline_model_takes_the_size_of_its_window() -> None:
    assert build("offline").context_window == 32_000
    assert build("offline:500").context_window == 500
    assert build("offline", context_window=700).context_window == 700
    assert "offline:N for a window of N tokens" in error_of("offline:large")
    assert "offline:N for a window of N tokens" in error_of("offline:0")


def test_a_missing_key_is_one_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = error_of("openai:gpt-5.2")
    assert "has no key: set OPENAI_API_KEY" in text
    assert "--model offline" in text


def test_a_variable_that_is_named_and_not_set_is_named() -> None:
    assert "MY_KEY is not set, which [chat] names as api_key_env" in error_of("openai:gpt-5.2", api_key_env="MY_KEY")


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    assert "pip install 'pydantic-ai-slim[anthropic]'" in error_of("anthropic:claude-sonnet-5")


@pytest.mark.parametrize("name", ["gpt", "opnai:gpt-5.2", "", ":", "\x1b[31m"])
def test_a_name_that_is_none_is_an_error_and_not_a_traceback(name: str) -> None:
    assert "cannot be used" in error_of(name)


def test_a_server_of_ones_own_is_never_sent_the_key_of_another_provider() -> None:
    environ = {"OPENAI_API_KEY": KEY, "MY_KEY": "my-own-key"}
    model = build("openai-chat:qwen3", environ, base_url="http://localhost:1/v1")
    assert model.provider.client.api_key == NO_KEY
    named = build("qwen3", environ, base_url="http://localhost:1/v1", api_key_env="MY_KEY")
    assert named.provider.client.api_key == "my-own-key"
    assert named.model_name == "qwen3"
    assert str(named.base_url).rstrip("/") == "http://localhost:1/v1"


def test_a_local_ollama_needs_nothing_and_may_be_elsewhere() -> None:
    assert str(build("ollama:qwen3").base_url).rstrip("/") == "http://localhost:11434/v1"
    assert str(build("ollama:qwen3", base_url="http://box:1/v1").base_url).rstrip("/") == "http://box:1/v1"
    assert build("ollama:qwen3", context_window=8192).context_window == 8192


def test_an_address_for_a_provider_that_has_its_own_is_an_error() -> None:
    assert "expected openai-chat:NAME, ollama:NAME" in error_of("mistral:large", base_url="http://localhost:1/v1")


def test_a_named_variable_gives_a_hosted_provider_its_key() -> None:
    model = build("openai-chat:gpt-5.2", {"MY_KEY": KEY}, api_key_env="MY_KEY")
    assert model.provider.client.api_key == KEY


# --- keys stay in


def test_every_variable_that_is_named_like_a_key_is_masked_and_short_words_are_not() -> None:
    others = {"KEYBOARD": "de-nodeadkeys", "X_KEY": "short", "PASSWORD_STORE_DIR": "/home/me/passwords"}
    keys = Secrets(keys_of({"OPENAI_API_KEY": KEY, "GH_TOKEN": "ghp_abcdefgh", **others}))
    assert keys.masked(f"{KEY} ghp_abcdefgh") == f"{MASK} {MASK}"
    assert keys.masked(" ".join(others.values())) == " ".join(others.values())
    assert keys.masked_value({"a": [KEY, 1, None], KEY: ("x" + KEY,)}) == {"a": [MASK, 1, None], MASK: (f"x{MASK}",)}


def test_a_variable_that_is_named_in_the_configuration_is_masked_whatever_its_name() -> None:
    assert Secrets(keys_of({"MINE": KEY}, ["MINE"])).masked(KEY) == MASK
    assert Secrets(keys_of({"MINE": KEY})).masked(KEY) == KEY


def test_of_two_keys_of_which_one_begins_the_other_nothing_is_left() -> None:
    keys = Secrets(keys_of({"A_KEY": "abcdefgh", "B_KEY": "abcdefgh-and-more"}))
    assert keys.masked("abcdefgh-and-more abcdefgh") == f"{MASK} {MASK}"


# --- what went wrong, in words


def test_errors_of_the_model_are_sentences_with_a_way_out() -> None:
    from pydantic_ai import exceptions as e

    wrong_key = e.ModelHTTPError.for_category(
        e.ModelAuthenticationError, status_code=401, model_name="m", body={"error": {"message": "no such key"}}
    )
    assert "does not take the key (no such key)" in error_text(wrong_key)
    busy = e.ModelHTTPError.for_category(e.ModelRateLimitError, status_code=429, model_name="m", retry_after=7)
    assert "try again in 7 s" in error_text(busy)
    assert "answered 500 (oops)" in error_text(e.ModelHTTPError(500, "m", "oops\nTraceback"))
    assert "cannot be reached" in error_text(e.ModelConnectionError("m", "Connection error."))
    assert "answered what nobody can use" in error_text(e.UnexpectedModelBehavior("garbage"))
    assert error_text(RuntimeError("boom")) == "an error in this turn: RuntimeError: boom; the conversation can go on"
    assert error_text(RuntimeError()) == "an error in this turn: RuntimeError; the conversation can go on"

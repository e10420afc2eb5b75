"""Choosing the model from options, environment and `config.toml`, and building it; errors are one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.catalog.home.chat_settings import is_server_url
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.providers import Provider

    from ally_plugins.catalog.home.chat_settings import ChatSettings

__all__ = ["BASE_URL_VARIABLE", "MODEL_VARIABLE", "OFFLINE", "ModelChoice", "build_model", "choose_model"]

MODEL_VARIABLE: Final = "ALLY_MODEL"
BASE_URL_VARIABLE: Final = "ALLY_BASE_URL"
OFFLINE: Final = "offline"
OLLAMA_URL: Final = "http://localhost:11434/v1"
"""Where Ollama listens by default."""
NO_KEY: Final = "no-key"
"""The key for a server at an address of one's own, unless one is named: it never gets the key of another provider."""
_OPENAI: Final = ("openai", "openai-chat", "")
_REQUIRES_END: Final = "openai_chat_streaming_requires_finish_reason"
"""The setting of an OpenAI-compatible model without which the framework takes any end of a stream for a good one."""
_WAY_OUT: Final = "`--model offline` needs no key and no network"
_KEY_VARIABLE: Final = re.compile(r"`([A-Z][A-Z0-9_]*(?:KEY|TOKEN|PROFILE))`")
_EXTRA: Final = re.compile(r'pip install "?(pydantic-ai-slim\[[a-z0-9_,-]+\])')


@frozen(kw_only=True)
class ModelChoice:
    """Which model is meant, before the framework is loaded."""

    name: str = OFFLINE
    base_url: str = ""
    api_key_env: str = ""
    context_window: int | None = None

    @property
    def is_offline(self) -> bool:
        """Whether it is the offline model."""
        return self.name.partition(":")[0] == OFFLINE


def choose_model(
    settings: ChatSettings,
    environ: Mapping[str, str],
    *,
    model: str | None = None,
    base_url: str | None = None,
    last: str | None = None,
) -> ModelChoice:
    """Choose by option, else what a resumed session used `last`, else environment, configuration, offline.

    Raises ConfigError for a base url that is no address. Whether the model exists is found out by `build_model`.
    """
    url = base_url or environ.get(BASE_URL_VARIABLE) or settings.base_url
    if url and not is_server_url(url):
        expected = "expected an http or https address without a password, such as http://localhost:8000/v1"
        raise ConfigError(f"the base url is no address: {expected}", path="--base-url")
    return ModelChoice(
        name=(model or last or environ.get(MODEL_VARIABLE) or settings.model or OFFLINE).strip(),
        base_url=url,
        api_key_env=settings.api_key_env,
        context_window=settings.context_window,
    )


def build_model(choice: ModelChoice, environ: Mapping[str, str]) -> Model[Any]:
    """Make the model. Raises ConfigError, in one sentence with the way out, for a missing key, extra or name."""
    from pydantic_ai.exceptions import UserError

    key = environ.get(choice.api_key_env) if choice.api_key_env else None
    if choice.api_key_env and not key:
        raise ConfigError(f"{choice.api_key_env} is not set, which [chat] names as api_key_env; {_WAY_OUT}")
    try:
        if choice.is_offline:
            return _offline(choice)
        # Ollama too without an address: it listens on this machine, where the framework wants a variable set.
        model = _served(choice, key) if choice.base_url or _is(choice, "ollama") else _hosted(choice, key)
        return _with_profile(model, choice.context_window)
    # The framework's own text names the extra of its slim package, which is what has to be installed.
    except ImportError as error:
        extra = _EXTRA.search(str(error))
        install = extra[1] if extra is not None else "the provider's package"
        raise ConfigError(f"the model {choice.name!r} needs an extra: pip install '{install}'; {_WAY_OUT}") from error
    except UserError as error:
        raise ConfigError(_user_error_text(choice, str(error))) from error
    except ValueError as error:
        raise ConfigError(f"the model {choice.name!r} cannot be used: {error}; {_WAY_OUT}") from error


def _is(choice: ModelChoice, provider: str) -> bool:
    return choice.name.partition(":")[0] == provider


def _user_error_text(choice: ModelChoice, text: str) -> str:
    if variables := _KEY_VARIABLE.findall(text):
        return (
            f"the model {choice.name!r} has no key: set {variables[0]}, or name another variable in [chat]; {_WAY_OUT}"
        )
    # The framework's texts are sentences with a full stop, and more follows here.
    text = text.rstrip(".")
    return f"the model {choice.name!r} cannot be used: {text[:1].lower()}{text[1:]}; {_WAY_OUT}"


def _offline(choice: ModelChoice) -> Model[Any]:
    from .offline.model import DEFAULT_WINDOW, OfflineModel

    _, _, window = choice.name.partition(":")
    if window and not (window.isdecimal() and int(window) > 0):
        raise ConfigError(f"the model {choice.name!r} is none; expected offline, or offline:N for a window of N tokens")
    return OfflineModel(int(window) if window else choice.context_window or DEFAULT_WINDOW)


def _served(choice: ModelChoice, key: str | None) -> Model[Any]:
    """Make the model of a server at an address of one's own."""
    provider, _, name = choice.name.partition(":") if ":" in choice.name else ("", "", choice.name)
    if provider == "ollama":
        from pydantic_ai.models.ollama import OllamaModel
        from pydantic_ai.providers.ollama import OllamaProvider

        return OllamaModel(name, provider=OllamaProvider(base_url=choice.base_url or OLLAMA_URL, api_key=key))
    if provider not in _OPENAI:
        forms = "openai-chat:NAME, ollama:NAME or just NAME"
        raise ConfigError(f"the model {choice.name!r} has an address of its own; expected {forms} with one")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=choice.base_url, api_key=key or NO_KEY))


def _hosted(choice: ModelChoice, key: str | None) -> Model[Any]:
    from pydantic_ai.models import infer_model

    if key is None:
        return infer_model(choice.name)
    from pydantic_ai.providers import infer_provider_class

    def provider(name: str) -> Provider[Any]:
        make: Any = infer_provider_class(name)
        return make(api_key=key)  # type: ignore[no-any-return] # each provider's own signature

    return infer_model(choice.name, provider_factory=provider)


def _with_profile(model: Model[Any], window: int | None) -> Model[Any]:
    """Return the model with a window that the framework does not know, or knows wrongly, and an end for its streams."""
    profile: dict[str, Any] = {} if window is None else {"context_window": window}
    if any(each.__name__ == "OpenAIChatModel" for each in type(model).__mro__):  # its module may not be installed
        profile[_REQUIRES_END] = True
    if not profile:
        return model
    # Made anew: the framework takes a profile only when a model is made.
    make: Any = type(model)
    made: Model[Any] = make(model.model_name, provider=model.provider, profile=profile)
    return made

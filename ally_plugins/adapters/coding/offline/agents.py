"""What each agent needs to run without a network, a login or a person: settings, variables, and its command line.

In a home of its own, never in the person's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

__all__ = ["AGENTS", "OfflineAgent", "OfflineRun", "prepare"]

KEY: Final = "any-key-will-do-on-loopback"

NEEDS_HOOK_TRUST: Final = "--dangerously-bypass-hook-trust"
"""Codex's flag for who cannot ask a person to trust its hooks."""


@frozen
class OfflineAgent:
    """One agent: its program, its command line with the prompt at the end, and what it reads.

    `variables` and the files in `home` and `project`, by their paths there, have the model's address at `@URL@`, and
    the two folders at `@HOME@` and `@PROJECT@`. Files that are JSON are objects here.
    """

    program: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(factory=dict)
    home: Mapping[str, Any] = field(factory=dict)
    project: Mapping[str, Any] = field(factory=dict)
    resumes: tuple[str, ...] = ()
    """What goes on with the last conversation, in the place of `arguments`."""
    version: tuple[str, ...] = ("--version",)


@frozen
class OfflineRun:
    """A command that runs an agent once, what it has of an environment, and the folder that it works in."""

    line: list[str]
    environment: dict[str, str]
    project: Path


_CODEX: Final = """model = "scripted"
model_provider = "scripted"
check_for_update_on_startup = false
[analytics]
enabled = false
[otel]
exporter = "none"
[features]
enable_request_compression = false
[model_providers.scripted]
name = "scripted"
base_url = "@URL@/v1"
wire_api = "responses"
requires_openai_auth = false
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
"""

_CODEX_FLAGS: Final = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", NEEDS_HOOK_TRUST)

_OPENCODE: Final = {
    "$schema": "https://opencode.ai/config.json",
    "autoupdate": False,
    "share": "disabled",
    "model": "scripted/scripted",
    "small_model": "scripted/scripted",
    "provider": {
        "scripted": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "scripted",
            "options": {"baseURL": "@URL@/v1", "apiKey": KEY},
            "models": {
                "scripted": {"name": "scripted", "tool_call": True, "limit": {"context": 100_000, "output": 8000}}
            },
        }
    },
}

_PI_MODEL: Final = {
    "id": "scripted",
    "name": "scripted",
    "contextWindow": 100_000,
    "maxTokens": 8000,
    "input": ["text"],
    "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
    "reasoning": False,
}

_MODEL: Final = re.compile(r"http://127\.0\.0\.1:\d+")

AGENTS: Final[Mapping[str, OfflineAgent]] = {
    "claude": OfflineAgent(
        "claude",
        ("--model", "claude-sonnet-4-5", "--allowedTools", "Bash,mcp__ally", "-p"),
        {
            "ANTHROPIC_BASE_URL": "@URL@",
            "ANTHROPIC_API_KEY": KEY,
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
        {
            ".claude.json": {
                "hasCompletedOnboarding": True,
                "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
            }
        },
        resumes=("--model", "claude-sonnet-4-5", "--allowedTools", "Bash,mcp__ally", "--continue", "-p"),
    ),
    "codex": OfflineAgent(
        "codex",
        ("exec", *_CODEX_FLAGS),
        home={".codex/config.toml": _CODEX},
        resumes=("exec", *_CODEX_FLAGS, "resume", "--last"),
    ),
    "gemini": OfflineAgent(
        "gemini",
        ("--skip-trust", "-m", "gemini-2.5-flash", "--yolo", "-p"),
        {
            "GEMINI_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": "@URL@",
            "GEMINI_CLI_NO_RELAUNCH": "true",
            "NO_BROWSER": "true",
        },
        {
            ".gemini/settings.json": {
                "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}},
                "privacy": {"usageStatisticsEnabled": False},
                "telemetry": {"enabled": False},
                "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
            }
        },
        resumes=("--skip-trust", "-m", "gemini-2.5-flash", "--yolo", "--resume", "latest", "-p"),
    ),
    "copilot": OfflineAgent(
        "copilot",
        ("--allow-all-tools", "--disable-client-telemetry", "-p"),
        {
            "COPILOT_OFFLINE": "true",
            "COPILOT_AUTO_UPDATE": "false",
            "COPILOT_PROVIDER_BASE_URL": "@URL@/v1",
            "COPILOT_PROVIDER_TYPE": "openai",
            "COPILOT_PROVIDER_API_KEY": KEY,
            "COPILOT_MODEL": "scripted",
            "COPILOT_PROVIDER_MAX_PROMPT_TOKENS": "100000",
            "COPILOT_PROVIDER_MAX_OUTPUT_TOKENS": "8000",
        },
        {".copilot/config.json": {"trusted_folders": ["@PROJECT@"], "banner": "never"}},
        resumes=("--allow-all-tools", "--disable-client-telemetry", "--continue", "-p"),
    ),
    "opencode": OfflineAgent(
        "opencode",
        ("run",),
        {
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        },
        project={"opencode.json": _OPENCODE},
        resumes=("run", "--continue"),
    ),
    "pi": OfflineAgent(
        "pi",
        ("--provider", "scripted", "--model", "scripted", "-p"),
        {"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "PI_SKIP_VERSION_CHECK": "1"},
        {
            ".pi/agent/settings.json": {
                "quietStartup": True,
                "enableInstallTelemetry": False,
                "enableAnalytics": False,
                "packageUpdates": False,
            },
            ".pi/agent/models.json": {
                "providers": {
                    "scripted": {
                        "baseUrl": "@URL@/v1",
                        "api": "openai-completions",
                        "apiKey": KEY,
                        "models": [_PI_MODEL],
                    }
                }
            },
        },
        resumes=("--provider", "scripted", "--model", "scripted", "--continue", "-p"),
    ),
    "goose": OfflineAgent(
        "goose",
        ("run", "--with-builtin", "developer", "-t"),
        {
            "GOOSE_PROVIDER": "openai",
            "OPENAI_HOST": "@URL@",
            "OPENAI_API_KEY": KEY,
            "GOOSE_MODEL": "scripted",
            "GOOSE_MODE": "auto",
            "GOOSE_DISABLE_KEYRING": "1",
            "GOOSE_TELEMETRY_ENABLED": "false",
            "GOOSE_TELEMETRY_OFF": "1",
        },
        resumes=("run", "--with-builtin", "developer", "--resume", "-t"),
    ),
}


def prepare(
    name: str,
    program: str,
    home: Path,
    url: str,
    *,
    prompt: str = "please",
    resumes: bool = False,
    path: str = "",
) -> OfflineRun:
    """Write an agent's settings into a home of its own, and return how it is run there.

    `program` is the path of what runs it, `path` names folders of programs that it needs beside the system's. Of files
    that are there, only the model's address changes; so it comes first, before hooks are written there, and again with
    the address of each run.
    """
    agent, project = AGENTS[name], home / "project"
    words = {"@URL@": url, "@HOME@": str(home), "@PROJECT@": str(project)}

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    project.mkdir(parents=True, exist_ok=True)
    for folder, files in ((home, agent.home), (project, agent.project)):
        for name_there, content in files.items():
            file = folder / name_there
            if file.exists():  # with hooks in it by now
                file.write_text(_MODEL.sub(url, file.read_text("utf-8")), "utf-8")
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(filled(content if isinstance(content, str) else json.dumps(content)), "utf-8")
    folders = [*filter(None, path.split(os.pathsep)), str(Path(program).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    environment = {
        "HOME": str(home),
        "PATH": os.pathsep.join(dict.fromkeys(folders)),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "SHELL": "/bin/sh",
        **{key: filled(value) for key, value in agent.variables.items()},
    }
    arguments = agent.resumes if resumes else agent.arguments
    return OfflineRun([program, *arguments, prompt], environment, project)

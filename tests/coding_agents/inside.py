"""Runs in the box: `inside.py JOB.json` connects an agent, runs it against a scripted model, writes what was seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from scripted_model import ScriptedModel  # type: ignore[import-not-found] # it lies beside this script

KEY = "any-key-will-do-on-loopback"

CODEX = """model = "scripted"
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
base_url = "{url}/v1"
wire_api = "responses"
requires_openai_auth = false
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
"""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    home = Path(os.environ["HOME"])
    model = ScriptedModel(job["commands"])
    environment = {**os.environ, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    if job["agent"] == "claude":
        approved = {"approved": [KEY[-20:]], "rejected": []}
        (home / ".claude.json").write_text(
            json.dumps({"hasCompletedOnboarding": True, "customApiKeyResponses": approved})
        )
        environment |= {
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": KEY,
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        line = [job["program"], "-p", "please", "--model", "claude-sonnet-4-5", "--allowedTools", "Bash"]
    else:
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").write_text(CODEX.format(url=model.url))
        line = [job["program"], "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
                "--dangerously-bypass-hook-trust", "please"]  # fmt: skip
    ally = [sys.executable, "-m", "ally_plugins"]
    said = [_run([*ally, *words], environment) for words in job["before"]]
    project = home / "project"
    project.mkdir()
    said.append(_run(line, environment, project))
    audit = _run([*ally, "audit", "--json"], environment)
    seen = {
        "said": said,
        "requests": model.requests,
        "audit": audit,
        "files": [each.name for each in project.iterdir()],
    }
    (home / "seen.json").write_text(json.dumps(seen))


def _run(line: list[str], environment: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run(
        line,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return f"{done.returncode}\n{done.stdout}\n{done.stderr}"


main()

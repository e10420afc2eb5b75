"""The lines of a crash that say what went wrong, wherever a language puts them."""

from __future__ import annotations

import shutil
import subprocess
import textwrap

import pytest

from ally_plugins.runtime.processes.stderr_reason import reason_lines

CRASHES = {
    "python": ("""
        Traceback (most recent call last):
          File "/p/daemon.py", line 3, in main
            connect(host)
            ^^^^^^^^^^^^^
        ConnectionError: no route to host
        """, ["connect(host)", "ConnectionError: no route to host"]),
    "java": ("""
        starting
        Exception in thread "main" java.lang.RuntimeException: outer
        \\tat a.Main.main(Main.java:3)
        Caused by: java.lang.IllegalStateException: inner
        \\tat a.Main.open(Main.java:9)
        \\t... 1 more
        """, ['Exception in thread "main" java.lang.RuntimeException: outer',
              "Caused by: java.lang.IllegalStateException: inner"]),
    "ruby": ("""
        daemon.rb:2:in `connect': no route to host (Errno::EHOSTUNREACH)
        \\tfrom daemon.rb:5:in `<main>'
        """, ["daemon.rb:2:in `connect': no route to host (Errno::EHOSTUNREACH)"]),
    "go": ("""
        listening
        panic: no route to host

        goroutine 1 [running]:
        main.main()
        \\t/p/main.go:5 +0x25
        exit status 2
        """, ["panic: no route to host"]),
    "rust": ("""
        thread 'main' panicked at src/main.rs:2:5:
        no route to host
        note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
        """, ["thread 'main' panicked at src/main.rs:2:5:", "no route to host"]),
    "words": ("""
        it looks at the disk
          the disk is full
        giving up
        """, ["the disk is full", "giving up"]),
    "only frames": ("        at f (a.js:1:1)\n    at g (a.js:2:1)\n", ["at f (a.js:1:1)", "at g (a.js:2:1)"]),
}  # fmt: skip


@pytest.mark.parametrize("language", CRASHES)
def test_the_error_is_found_before_or_behind_its_frames(language: str) -> None:
    text, expected = CRASHES[language]
    assert reason_lines(textwrap.dedent(text).split("\n"), 3)[-len(expected) :] == expected


NODE = {
    "thrown": ('throw new Error("no route")', "Error: no route"),
    "of the system": ('require("fs").readFileSync("/no/x")', "Error: ENOENT: no such file or directory, open '/no/x'"),
    "with a cause": ('throw new Error("outer", {cause: new TypeError("inner")})', "Error: outer"),
    "rejected": ('Promise.reject(new TypeError("late"))', "TypeError: late"),
    "deep": ('Error.stackTraceLimit = 50; (function f(n) { if (n) f(n - 1); throw Error("deep") })(80)', "Error: deep"),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize("how", NODE)
def test_a_crash_of_a_node_program_is_told_by_its_error(how: str) -> None:
    code, expected = NODE[how]
    lines = subprocess.run(["node", "-e", code], stderr=subprocess.PIPE, text=True, check=False).stderr.split("\n")
    assert reason_lines(lines, 3)[-1] == expected


def test_a_module_that_is_missing_is_told_with_who_requires_it() -> None:
    lines = [
        "Error: Cannot find module 'ws'",
        "Require stack:",
        "- /p/daemon.js",
        "    at f (a:1:2) {",
        "  code: 'X'",
        "}",
    ]
    assert reason_lines(lines, 3) == ["Error: Cannot find module 'ws'", "Require stack:", "- /p/daemon.js"]
    assert reason_lines([], 3) == []
    assert reason_lines(["  ", "^^"], 3) == []

"""What a program needs to read and execute so that it can run at all: the system's libraries, its interpreter.

Only names and a few small files are looked at, and nothing is run: an interpreter of a plugin's own environment would
run the code that the plugin has put there. What a plugin may do beyond that is the host's to say.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["KERNEL", "NETWORK_FILES", "SYSTEM", "SYSTEM_FILES", "Program", "code_folders", "interpreter", "programs"]

SYSTEM: Final = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",  # zones, locales, certificates' sources, modules of Node.js and Perl, templates of git
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/share",
    "/nix/store",
)
"""Folders of what a distribution installs, the same for everybody. Not /usr/bin: programs are granted by name."""

SYSTEM_FILES: Final = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/gitconfig",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/debian_version",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/redhat-release",
    "/etc/mime.types",  # Python's mimetypes fails when it is there and cannot be read, and so for the next two
    "/etc/apache2/mime.types",
    "/etc/httpd/conf/mime.types",
    f"/etc/python3.{sys.version_info.minor}/sitecustomize.py",  # of Debian's own Python
    "/etc/perl/sitecustomize.pl",
)
"""Files of /etc that interpreters, git and pip look for. Never /etc as a whole: passwords of services lie there."""

NETWORK_FILES: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
)
"""What finds an address and checks a certificate."""

KERNEL: Final = (
    "/proc/self",  # of the process that enters: the kernel forgets it when memory is short, and programs do without
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu",
)
"""What programs ask the kernel for. Not /proc as a whole: the command lines of other processes stand there."""

_SHEBANG_BYTES: Final = 256  # what the kernel reads of a script's first line (BINPRM_BUF_SIZE)
_DEEPEST: Final = 4  # scripts that are interpreted by scripts, as far as the kernel goes
_LARGEST: Final = 1 << 16  # bytes
_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*\Z")


class Program(NamedTuple):
    """A program and what it is made of: files to execute, and folders to read."""

    files: tuple[str, ...]
    folders: tuple[str, ...]


def interpreter(python: str) -> Program:
    """Return what a Python needs to run: its program, the standard library, what is installed, and its environment's.

    A path that is no Python gives its program at most.
    """
    real = os.path.realpath(python)
    prefixes = [os.path.dirname(os.path.dirname(real))]  # noqa: PTH120
    environment = os.path.dirname(os.path.dirname(os.path.abspath(python)))  # noqa: PTH100, PTH120 - a link stays one
    files = [real]
    settings = f"{environment}/pyvenv.cfg"
    if os.path.isfile(settings):  # noqa: PTH113
        files.append(settings)
        # The base that it names: where programs are copied into an environment, no link leads there.
        prefixes += [environment, *map(os.path.dirname, _bases(settings))]
    folders = [f"{prefix}/{name}" for prefix in dict.fromkeys(prefixes) for name in ("lib", "lib64")]
    return Program(tuple(files), tuple(filter(_is_python_library, folders)))


def _is_python_library(folder: str) -> bool:
    """Say whether a folder has Pythons or their packages, so that no other one passes for it by its name."""
    for name in _names(folder):
        if name.startswith("python3"):
            own = f"{folder}/{name}"
            if os.path.lexists(f"{own}/os.py") or any(each.endswith("-packages") for each in _names(own)):
                return True
    return False


def _bases(settings: str) -> Iterator[str]:
    for line in _lines(settings):
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip().startswith("/"):
            yield value.strip()


def code_folders(site_folders: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that `.pth` files in these name, as editable installs do; what they run is not looked at.

    For the running Python only, which has believed these files already: one that a plugin has put into an environment
    of its own could name anything.
    """
    found: dict[str, None] = {}
    for folder in site_folders:
        for name in _names(folder):
            for line in _lines(f"{folder}/{name}") if name.endswith(".pth") else ():
                # A line that is imported is code, and not a path.
                if line and not line.startswith(("#", "import ", "import\t")):
                    path = os.path.abspath(os.path.join(folder, line))  # noqa: PTH100, PTH118 - links stay
                    if os.path.isdir(path):  # noqa: PTH112
                        found[path] = None
    return tuple(found)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - at each start, and pathlib takes ten times as long
    except OSError:
        return []


def _lines(file: str) -> list[str]:
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - as above
            return [line.strip() for line in opened.read(_LARGEST).decode("utf-8", "replace").splitlines()]
    except OSError:
        return []


def programs(name: str, folder: str, path: str) -> Program:
    """Return what the program of a command needs: itself, what interprets it, and of a Python its libraries.

    A name without a slash is looked for on `path`, another one from `folder` on. Nothing for one that is not there.
    """
    files: dict[str, None] = {}
    folders: dict[str, None] = {}
    wanted = [(name, 0)]
    while wanted:
        name, depth = wanted.pop()
        found = os.path.join(folder, name) if os.path.dirname(name) else shutil.which(name, path=path)  # noqa: PTH118, PTH120
        if not found or depth > _DEEPEST:
            continue
        real = os.path.realpath(found)
        # The first line of a plugin's script may name any file: one that nobody executes is not opened by that.
        if not (os.path.isfile(real) and os.access(real, os.X_OK)):  # noqa: PTH113
            continue
        files[real] = None
        if _PYTHON.match(os.path.basename(real)):  # noqa: PTH119
            python = interpreter(found)
            files |= dict.fromkeys(python.files)
            folders |= dict.fromkeys(python.folders)
        wanted += [(each, depth + 1) for each in _interpreters(real)]
    return Program(tuple(files), tuple(folders))


def _interpreters(script: str) -> list[str]:
    """Return the programs in the first line of a script: the interpreter, and what `env` looks for."""
    try:
        with Path(script).open("rb") as opened:
            line = opened.read(_SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return []
    if not line.startswith(b"#!"):
        return []
    words = os.fsdecode(line[2:]).split()
    if not words:
        return []
    # `env -S python3 -X dev`: the first word that is neither an option nor a variable.
    is_env = os.path.basename(words[0]) == "env"  # noqa: PTH119
    more = [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1] if is_env else []
    return [words[0], *more]

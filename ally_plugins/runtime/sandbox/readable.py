"""What a program needs to read and execute so that it can run at all: the system's libraries, its interpreter.

Only names and a few small files are looked at, and nothing is run: an interpreter of a plugin's own environment would
run the code that the plugin has put there. What a plugin may do beyond that is the host's to say.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "KERNEL",
    "LARGEST",
    "NETWORK_FILES",
    "SYSTEM",
    "SYSTEM_FILES",
    "Program",
    "environment_of",
    "interpreter",
    "lines_of",
    "names_in",
    "programs",
    "pythons",
]

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
LARGEST: Final = 1 << 16
"""Bytes that are read of a small file."""
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
    environment = environment_of(python)
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
    for name in names_in(folder):
        if name.startswith("python3"):
            own = f"{folder}/{name}"
            if os.path.lexists(f"{own}/os.py") or any(each.endswith("-packages") for each in names_in(own)):
                return True
    return False


def _bases(settings: str) -> Iterator[str]:
    for line in lines_of(settings):
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip().startswith("/"):
            yield value.strip()


def environment_of(python: str) -> str:
    """Return the folder of the environment that a Python is named in: where its libraries and settings lie."""
    return os.path.dirname(os.path.dirname(os.path.abspath(python)))  # noqa: PTH100, PTH120 - a link stays one


def names_in(folder: str) -> list[str]:
    """Return the names in a folder, none of one that cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - at each start, and pathlib takes ten times as long
    except OSError:
        return []


def lines_of(file: str) -> list[str]:
    """Return the lines of a small file without the spaces around them, none of one that cannot be read."""
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - as above
            return [line.strip() for line in opened.read(LARGEST).decode("utf-8", "replace").splitlines()]
    except OSError:
        return []


def programs(name: str, folder: str, path: str) -> Program:
    """Return what the program of a command needs: itself, what interprets it, and of a Python its libraries.

    A name without a slash is looked for on `path`, another one from `folder` on. Nothing for one that is not there.
    """
    files: dict[str, None] = {}
    folders: dict[str, None] = {}
    for found, real in _chain(name, folder, path):
        files[real] = None
        if _is_python(real):
            python = interpreter(found)
            files |= dict.fromkeys(python.files)
            folders |= dict.fromkeys(python.folders)
    return Program(tuple(files), tuple(folders))


def pythons(name: str, folder: str, path: str) -> tuple[str, ...]:
    """Return the Pythons among the program of a command and what interprets it, as `programs` finds them."""
    return tuple(found for found, real in _chain(name, folder, path) if _is_python(real))


def _is_python(program: str) -> bool:
    return _PYTHON.match(os.path.basename(program)) is not None  # noqa: PTH119


def _chain(name: str, folder: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield a program and what interprets it, each as it was found and where links lead."""
    wanted = [(name, 0)]
    while wanted:
        name, depth = wanted.pop()
        found = os.path.join(folder, name) if os.path.dirname(name) else shutil.which(name, path=path)  # noqa: PTH118, PTH120
        if not found or depth > _DEEPEST:
            continue
        real = os.path.realpath(found)
        # The first line of a plugin's script may name any file: one that nobody executes is not opened by that.
        if os.path.isfile(real) and os.access(real, os.X_OK):  # noqa: PTH113
            yield found, real
            wanted += [(each, depth + 1) for each in _interpreters(real)]


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

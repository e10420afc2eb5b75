"""The directory that holds the state of one app: where each file lies, who may read it, and how it is replaced whole.

What the files contain is left to `config`, `consent`, `secret_store`, the journal and the discovery cache.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import Factory, field, frozen

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe
from ally_plugins.journal.owned_files import check_folder, open_file, read_file
from ally_plugins.policy.owned_files import way_out_of

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "HOME_VARIABLE",
    "MAX_STATE_BYTES",
    "PLUGINS_VARIABLE",
    "Home",
    "absolute_path",
    "check_size",
    "read_capped",
    "try_lock",
    "unlock",
    "write_atomically",
]

HOME_VARIABLE: Final = "ALLY_HOME"
PLUGINS_VARIABLE: Final = "ALLY_PLUGINS"
"""The plugins that may be loaded, by name, or `none`."""

MAX_STATE_BYTES: Final = 1024 * 1024
"""Of a file that only this program writes; with thousands of plugins they have some hundred kilobytes."""

LOCK_TIMEOUT: Final = 10.0
"""Seconds that one command waits for another that edits the same home; an edit takes milliseconds."""

_LOCK_POLL: Final = 0.02  # seconds; the kernel's locks are waited for without an end, or not at all
_EDIT_LOCK: Final = "edit.lock"
_NO_PATH: Final = (errno.ENAMETOOLONG, errno.ELOOP)
_HELD: Final[ContextVar[frozenset[Path]]] = ContextVar("held_homes", default=frozenset())
"""The homes whose lock this context holds; the kernel's lock is not one that its holder can take again."""

_APP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")


def _default_path(app: str) -> Path:
    if not _APP.match(app):
        raise ConfigError(f"app {describe(app)} is not a name, expected letters, digits, '.', '_' and '-'", path="app")
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return absolute_path(named, HOME_VARIABLE)
    import platformdirs  # only where no home is given

    try:
        path = Path(platformdirs.user_state_path(app, appauthor=False))
    except RuntimeError:
        path = Path()
    if os.environ.get("HOME") == "" and not os.environ.get("XDG_STATE_HOME"):
        path = Path()  # `~` is the root of the file system then, in older versions of platformdirs
    if not path.is_absolute():  # a container's user, who has no HOME and no entry in passwd
        found = f"HOME is {describe(os.environ['HOME'])}" if "HOME" in os.environ else "HOME is not set"
        way_out = f"set {HOME_VARIABLE} to a folder for the state of {app!r}"
        raise ConfigError(f"this user's home directory is not known ({found}); {way_out}", path=HOME_VARIABLE)
    return path


def absolute_path(text: str, named_by: str) -> Path:
    """Return the absolute path of what a person named, where `~` is a home directory.

    Raises ConfigError, which names `named_by`, for an empty text, when that home or the working directory is not there,
    and for what no system can look for: names that are too long, links that lead in a circle.
    """
    if not text:  # a variable that is not set, and no way to say the working directory
        raise ConfigError(f"{named_by} is '', expected a path", path=named_by)
    try:
        # Not resolved: a home may be a link, which its owner can lead elsewhere.
        path = Path(text).expanduser().absolute()
    except RuntimeError:
        problem = "begins with a home directory that is not known"
    except OSError as error:
        problem = f"is relative, and the working directory cannot be found: {error.strerror or error}"
    else:
        if not (why := _why_no_path(path)):
            return path
        problem = f"cannot be looked for: {why}"
    raise ConfigError(f"{named_by}: {describe(text)} {problem}; expected an absolute path", path=named_by)


def _why_no_path(path: Path) -> str:
    """Return why nothing can ever be at a path; "" also where there is nothing, or it may not be read."""
    try:
        path.stat()
    except ValueError as error:  # a NUL character
        return str(error)
    except OSError as error:
        return (error.strerror or str(error)) if error.errno in _NO_PATH else ""
    return ""


@frozen
class Home:
    """Where one app keeps its state: ALLY_HOME, or the platform's directory for the app's name.

    Apps of other names have other directories; with ALLY_HOME set, whoever sets it decides which app is meant.
    Without a path, raises ConfigError for an app's name that could lead out of its directory, and where neither
    ALLY_HOME nor the user's home directory is known.
    """

    app: str
    path: Path = field(
        default=Factory(lambda self: _default_path(self.app), takes_self=True),
        converter=Path,
    )

    @property
    def config_file(self) -> Path:
        """The operator's file."""
        return self.path / "config.toml"

    @property
    def consent_file(self) -> Path:
        """What was agreed to."""
        return self.path / "consent.toml"

    @property
    def secrets_file(self) -> Path:
        """Secrets, where the system has no keyring."""
        return self.path / "secrets.json"

    @property
    def keyring_id_file(self) -> Path:
        """The id by which this home's secrets go in the system's keyring, made with the first of them."""
        return self.path / "keyring.id"

    @property
    def quarantine_file(self) -> Path:
        """Which plugins stay stopped until they are released."""
        return self.path / "quarantine.json"

    @property
    def journal_file(self) -> Path:
        """The journal's database."""
        return self.path / "journal.db"

    @property
    def audit_head_file(self) -> Path:
        """Count and hash of the audit chain."""
        return self.path / "audit.head"

    @property
    def not_served_file(self) -> Path:
        """What the app's host has declared it does not serve (`Serves.missing`), as a JSON list."""
        return self.run_dir / "not-served.json"

    @property
    def failed_starts_file(self) -> Path:
        """Which plugins could not be started when a host last tried, with the reason."""
        return self.run_dir / "failed-starts.json"

    @property
    def plugins_dir(self) -> Path:
        """Folders with a manifest and a daemon each, which the operator has put there."""
        return self.path / "plugins"

    @property
    def projects_file(self) -> Path:
        """What was trusted of which projects."""
        return self.path / "projects.json"

    @property
    def projects_dir(self) -> Path:
        """Copies of the plugins that trusted projects add."""
        return self.path / "projects"

    @property
    def envs_dir(self) -> Path:
        """Virtual environments for plugins that run in a process of their own."""
        return self.path / "envs"

    @property
    def logs_dir(self) -> Path:
        """What plugins log."""
        return self.path / "logs"

    @property
    def run_dir(self) -> Path:
        """Locks, caches and sockets; nothing in it outlives its use."""
        return self.path / "run"

    @property
    def work_dir(self) -> Path:
        """Where a daemon works that names no folder."""
        return self.path

    def read(self, file: Path, limit: int, *, follow: bool = False) -> bytes | None:
        """Read a file of the home, None when there is none. Raises OSError, whose text has the way out.

        The file must be a regular one that only its owner, this user or root, can write, in a home of which the same is
        true; else what others wrote would pass for the operator's decision. A link is refused unless `follow`.
        """
        try:
            if self.path.is_dir():  # else there is nothing in it, and `prepare` says why
                check_folder(self.path)
        except OSError as error:
            raise OSError(None, f"the home {str(self.path)!r} cannot be trusted: {error.strerror or error}") from error
        return read_file(file, limit, follow=follow)

    def write(self, file: Path, content: bytes, limit: int, *, durable: bool = True, private: bool = False) -> None:
        """Replace a file of the home that only this program writes, and a link in its place. Raises OSError.

        Also for more bytes than `limit`, which is that of `read`: nobody could read the file afterwards.
        """
        check_size(content, limit)
        try:
            write_atomically(file, content, durable=durable, private=private, follow=False)
        # Of the rename, which puts no file in the place of a folder.
        except IsADirectoryError:
            raise OSError(None, f"it is a folder, expected a file or nothing; {way_out_of(str(file))}") from None

    def open_lock(self, name: str) -> int:
        """Return the descriptor of a file in `run` that is there to be locked. Raises OSError."""
        return open_file(self.run_dir / name, os.O_RDWR | os.O_CREAT)

    def data_dir(self, plugin: str) -> Path:
        """Return the directory that a plugin may write to; it is made when it is not there. Raises ConfigError."""
        directory = self.path / "data" / plugin
        self.prepare(directory)
        return directory

    def prepare(self, *directories: Path) -> None:
        """Make the home, its `run` directory and others, readable by their owner only. Raises ConfigError."""
        try:
            _make_home(self.path)
            self.run_dir.mkdir(exist_ok=True, mode=0o700)
            _make_private(self.run_dir)
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            reason = error.strerror or str(error)
            message = (
                f"the home {str(self.path)!r} cannot be used: {reason}; set {HOME_VARIABLE} to a directory of yours"
            )
            raise ConfigError(message, file=str(self.path)) from error

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep every other command from editing this home meanwhile. Blocks; not for the event loop's thread.

        May be entered again inside of it. Raises ConfigError when another one holds the lock for longer than
        `LOCK_TIMEOUT`.
        """
        if self.path in _HELD.get():
            yield
            return
        self.prepare()
        try:
            descriptor = self.open_lock(_EDIT_LOCK)
        except OSError as error:
            file = str(self.run_dir / _EDIT_LOCK)
            raise ConfigError(f"{file} cannot be locked: {error.strerror or error}", file=file) from error
        try:
            _wait_for(descriptor, self.path)
            before = _HELD.set(_HELD.get() | {self.path})
            try:
                yield
            finally:
                _HELD.reset(before)
        finally:
            unlock(descriptor)


def _make_home(path: Path) -> None:
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:  # looked at already, so it is a link
        raise OSError(None, f"it is a link to nothing, expected a folder; {way_out_of(str(path))}") from None
    # Again: mkdir takes a folder that somebody else has made in between.
    check_folder(path)


def _make_private(directory: Path) -> None:
    if os.name != "posix":
        return
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise NotADirectoryError(None, f"{str(directory)!r} is a link, expected a folder; remove the link")
    if found.st_uid != os.geteuid():
        raise PermissionError(None, f"{str(directory)!r} belongs to another user")
    # Sockets and locks lie in it, and mkdir leaves the mode of a folder that is there already.
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        directory.chmod(stat.S_IRWXU)


def _wait_for(descriptor: int, home: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            message = f"another command has been editing {str(home)!r} for {LOCK_TIMEOUT:g} s; wait for it, or end it"
            raise ConfigError(message, file=str(home))
        time.sleep(_LOCK_POLL)


def try_lock(descriptor: int) -> bool:
    """Say whether this open file could be locked; the lock ends with the last descriptor of this opening."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # Not lockf, whose locks are the process's: threads would share them, and closing any other descriptor of
            # the file would release them.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release the lock of an open file, and close it.

    Closing alone would leave it to the forks of this process, which have a copy of the descriptor: a pool of workers
    would keep it for as long as they live.
    """
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def read_capped(path: Path | str, limit: int) -> bytes | None:
    """Read a file that is not the home's, whoever owns it; None when there is none.

    Raises OSError for what is no regular file, without waiting for it, and past `limit` bytes.
    """
    return read_file(path, limit, follow=True, is_own=False)


def check_size(content: bytes, limit: int) -> None:
    """Raise OSError for more bytes than are read of a file."""
    if len(content) > limit:
        raise OSError(None, f"it would have {len(content)} bytes, expected {limit} at most")


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, private: bool = False, follow: bool = True
) -> None:
    """Replace a file whole: readers see the old content or the new one, also after a crash.

    A link stays a link and its target is replaced; without `follow` it is replaced by the file. An existing file keeps
    its mode, unless it is `private`; a new one is its owner's only. `durable` waits for the disk. Raises OSError; the
    old file is then untouched.
    """
    target = Path(os.path.realpath(path)) if follow else path
    kept = None
    with suppress(FileNotFoundError):
        found = target.lstat()
        if stat.S_ISREG(found.st_mode) and not private:
            kept = found
    # Beside the target, since a rename is atomic only within a file system.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        _write_new(temporary, content, kept, durable=durable)
        temporary.replace(target)
    # Ctrl-C too: nobody else would remove the half of a file.
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = str(path)  # as the caller knows it
        raise
    # The rename is in the folder, which has to be on disk as well.
    if durable:
        _sync_directory(target.parent)


def _write_new(path: Path, content: bytes, kept: os.stat_result | None, *, durable: bool) -> None:
    # Never what everybody could write: such a file is refused, and written anew it is to count again.
    mode = stat.S_IRUSR | stat.S_IWUSR if kept is None else stat.S_IMODE(kept.st_mode) & ~stat.S_IWOTH
    # O_EXCL: a link that somebody has laid there is not written through.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    with os.fdopen(descriptor, "wb") as file:
        # The umask took from it. Not where the group is another one now, which would get what the old one had.
        if sys.platform != "win32" and kept is not None and os.fstat(descriptor).st_gid == kept.st_gid:
            os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        # Before the rename: a crash could leave the new name with nothing in it.
        if durable:
            os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    # Windows opens no folders.
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

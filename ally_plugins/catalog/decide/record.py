"""One plugin as the host and the commands see it: whether it may run, why not, where, and with which grants.

The record of an installed plugin is decided in `state`; those that a host author gives by code are made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import Factory, evolve, field, frozen

from ally_plugins.catalog.discovery.found import Found
from ally_plugins.catalog.home.config import Placement, PluginConfig
from ally_plugins.catalog.home.consent import Agreement, file_changes, listing_of
from ally_plugins.catalog.home.files import drop_bytecode
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.contract.grants import BESIDE_THE_HOST
from ally_plugins.contract.manifest import GrantRequest, Manifest
from ally_plugins.contract.process_spec import Daemon, ProcessLimits
from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.contract.values.masking import Secret
from ally_plugins.policy.granted_files import names_project
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ally_plugins.catalog.discovery.bridge import Bridge

__all__ = ["PluginRecord", "State", "given_records", "resolve_settings"]

State = Literal[
    "enabled",
    "disabled",
    "waiting for consent",
    "not configured",
    "broken",
    "not installed",
    "quarantined",
    "left out",
]
"""Only an `enabled` plugin is loaded."""

_OUTSIDE: Final = ("process", "sandbox", "shared")
"""Placements of what runs outside of the host's process."""

_NO_GRANTS: Final = GrantSet()
_NO_CONFIG: Final = PluginConfig()
_NO_MANIFEST: Final = Manifest()


@frozen(kw_only=True)
class PluginRecord:
    """One plugin as the host and the commands see it; valid until something in the home or on the path changes.

    `reason` is one line: why it is not enabled, or a remark on one that is; empty without either.
    """

    name: str
    state: State
    reason: str = ""
    distribution: str = ""
    version: str = ""
    entry_point: str = ""
    manifest: Manifest = _NO_MANIFEST
    granted: GrantSet = _NO_GRANTS
    """What it may do; while it is not enabled, what it was granted, so that its missing gates deny."""
    pending: tuple[GrantRequest, ...] = ()
    """What it asks for and nobody has agreed to."""
    config: PluginConfig = _NO_CONFIG
    settings: Mapping[str, Any] = field(default=FrozenDict(), repr=False)
    """Resolved values, secrets among them; never show or journal them. Empty while it is not enabled."""
    agreement: Agreement | None = None
    has_changed_code: bool = False
    warnings: tuple[str, ...] = ()
    loosened: tuple[str, ...] = ()
    """Keys that `config.toml` loosens and nobody has agreed to; what was agreed to holds."""
    failure: str = ""
    """Why the host that last tried could not start it, a broken import for one; empty when it could."""
    found: Found | None = None
    daemon: Daemon | None = None
    """How it runs in a process of its own, all settled and ready to start; None for one that runs inline."""
    python: str = ""
    """The Python that the operator named for what runs outside of the host; empty for none."""
    is_unplaced: bool = False
    """Whether nobody has settled where it runs, nor enabled it before: enabling settles what `config` says of that."""
    outside: str = ""
    """Why such a plugin would not be placed in a sandbox; empty where it would."""
    label: str = field(default=Factory(lambda self: self.name, takes_self=True))
    """What commands and lists call it: the name, or `folder:NAME` where a package has the name too."""
    is_set_aside: bool = False
    """Whether another one of its name is the one that counts; such a plugin is never loaded."""

    @property
    def placement(self) -> Placement:
        """Where it runs, or would run."""
        found = self.found
        if found is not None and found.plugin is not None:
            return "inline"
        is_shipped = found is not None and not found.is_class
        if not (self.daemon or is_shipped or self.config.placement in _OUTSIDE):
            return "inline"
        placement = self.config.placement
        return placement if placement in ("sandbox", "shared") else "process"

    @property
    def origin(self) -> str | None:
        """What distinguishes it from others of its name: `package`, `folder` or its source; None without one."""
        return self.found.origin if self.found is not None else None

    @property
    def project(self) -> str | None:
        """The folder of the trusted project that adds it, None for one that takes part in all sessions."""
        return self.found.project if self.found is not None else None

    @property
    def bridge(self) -> Bridge | None:
        """The way to run it, for a plugin of another system that is no daemon of ours."""
        return self.found.bridge if self.found is not None else None

    @property
    def found_by(self) -> str:
        """The name of the source that found it, empty for what is given by code or not there."""
        return self.found.source if self.found is not None else ""

    @property
    def changed_files(self) -> tuple[str, ...]:
        """Which files of a folder are not as they were agreed to, in words; empty without a listing to compare with."""
        if self.agreement is None or self.found is None or not self.agreement.listing:
            return ()
        return file_changes(self.agreement.listing, listing_of(self.found.files))

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables of the host that its process is given: those granted, sorted."""
        return tuple(sorted(grant.topic for grant in self.granted.grants if grant.kind == "env"))

    @property
    def runs_by_project(self) -> bool:
        """Whether it has a process for each project: no sandbox can be widened, and it was granted files of these."""
        is_daemon = self.daemon is not None and self.bridge is None
        return is_daemon and self.placement == "sandbox" and names_project(self.granted)

    @property
    def unheld(self) -> tuple[str, ...]:
        """What it is granted beside the host, where nothing holds it to that: it may do all of it, and more."""
        # By what does not hold them, so that a placement which is not known here is taken at its word.
        if self.placement not in ("inline", "process"):
            return ()
        return tuple(text for text in self.granted.texts() if text.partition(":")[0] in BESIDE_THE_HOST)

    @property
    def limits(self) -> ProcessLimits:
        """What each of its processes is held to: that of its daemon, and those that are run for one call."""
        return self.daemon.limits if self.daemon is not None else ProcessLimits().with_settled(self.config.process)

    def make_ready(self) -> str:
        """Return why its files must not be run now, empty when they may. Reads all of them, and removes compiled code.

        To be called before each start of its process, restarts included: the files may have changed since the record
        was made, and a restart must not run what nobody has agreed to. Blocks while it reads: not for the event
        loop's thread. Raises nothing.
        """
        found = self.found
        # Only in folders of the home: elsewhere compiled code is not ours to remove, and is left unread instead.
        if found is not None and found.origin == "folder":
            try:
                drop_bytecode(found.root)
            except OSError as error:
                text = f"{error.filename or found.root!r} cannot be removed: {error.strerror or error}"
                return f"compiled code lies in it, which nobody can agree to, and {text}; remove it"
        return self.files_problem()

    def files_problem(self) -> str:
        """Return how its files differ from those that were agreed to, empty when they do not. Reads all of them."""
        found, agreement = self.found, self.agreement
        # An upgrade of a package is usual, and is agreed to anew only where the operator wants that.
        if found is None or agreement is None or (found.origin == "package" and self.config.consent != "files"):
            return ""
        try:
            is_same = found.content_digest() == agreement.files
        except OSError as error:
            return f"its files cannot be agreed to: {error.strerror or error}"
        way_out = f"to see what has changed, and agree: ally-plugins enable {self.label}"
        return "" if is_same else f"its files are not those that were agreed to; {way_out}"

    @property
    def durable(self) -> tuple[str, ...]:
        """The event types that it gets from the journal. None for a plugin of another system: it cannot acknowledge."""
        return () if self.bridge is not None else self.manifest.durable

    @property
    def source(self) -> str:
        """Where the plugin comes from, in words."""
        if not self.distribution:
            return "given by code" if self.found is None and self.state == "enabled" else "not installed"
        found = self.found
        if found is None or found.origin == "package":
            return f"{self.distribution} {self.version}".rstrip()
        where = f"folder {found.root}" if found.root else self.distribution
        by = "" if found.source == "folders" else f" ({found.source})"
        return f"{where} {self.version}".rstrip() + by

    @property
    def requested(self) -> GrantSet:
        """What it asks for."""
        return GrantSet(self.manifest.grants)

    @property
    def is_enabled(self) -> bool:
        """Whether it is to be loaded."""
        return self.state == "enabled"

    @property
    def is_missed(self) -> bool:
        """Whether the operator wants it and it cannot run: its granted gates deny until then."""
        return self.config.enabled and self.state not in ("enabled", "left out")

    @classmethod
    def by_code(
        cls,
        name: str,
        manifest: Manifest | None = None,
        *,
        grants: GrantSet | None = None,
        config: PluginConfig | None = None,
        settings: Mapping[str, Any] | None = None,
        daemon: Daemon | None = None,
    ) -> PluginRecord:
        """Return the record of a plugin that a host author gives by code; that is the author's consent.

        Without `grants` it has what its manifest requests, and without a manifest everything but environment variables.
        With `daemon` it runs in a process of its own.
        """
        declared = manifest if manifest is not None else Manifest()
        requested = GrantSet(declared.grants) if manifest is not None else GrantSet.everything()
        granted = requested if grants is None else grants
        return cls(
            name=name,
            state="enabled",
            manifest=declared,
            granted=granted,
            config=config or PluginConfig(enabled=True, is_decided=True, grants=granted),
            settings=_defaults(declared) | _given_settings(declared, settings or {}),
            agreement=Agreement(requests=requested.texts(), distribution="", by="code"),
            daemon=daemon,
        )


def _defaults(manifest: Manifest) -> dict[str, Any]:
    return {name: setting.default for name, setting in manifest.settings.items()}


def _given_settings(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings given by code; those that the manifest calls secret hide themselves, as installed ones do."""
    hidden = {name for name, setting in manifest.settings.items() if setting.secret}
    return {
        name: Secret(value) if name in hidden and isinstance(value, str) else value for name, value in given.items()
    }


def given_records(
    plugins: Mapping[str, Any], grants: Mapping[str, Iterable[str]]
) -> list[tuple[PluginRecord, Callable[[Any], Any] | None]]:
    """Return the records of plugins that a host author gives by code, each with its factory. Raises HostError.

    A plugin is given as a factory, as a `Daemon`, or as one of both with its record; a daemon has no factory.
    """
    given: list[tuple[PluginRecord, Callable[[Any], Any] | None]] = []
    for name, value in plugins.items():
        what, record = value if isinstance(value, tuple) else (value, _given(name, grants.get(name)))
        if isinstance(what, Daemon):
            given.append((evolve(record, daemon=what.with_process(record.config.process)), None))
        else:
            given.append((record, what))
    # A slip in a name would leave the plugin that was meant with all that it may ask for.
    if unknown := sorted(set(grants) - set(plugins)):
        raise HostError(f"grants are given for {', '.join(unknown)}, which plugins= does not name")
    return given


def _given(name: str, grants: Iterable[str] | None) -> PluginRecord:
    return PluginRecord.by_code(name, grants=GrantSet.of(grants) if grants is not None else None)

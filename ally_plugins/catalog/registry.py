"""What is installed, joined with what the operator agreed to; and the changes that an operator makes to that.

Every change is made under the home's lock, is on disk when its method returns, and is returned as a value for the
audit. What follows from the facts is decided in `decide`; printing and prompting is left to the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.hookspecs import HOOKS_OF_TOPICS
from ally_plugins.contract.values.errors import ConfigError, ConsentError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.contract.values.ids import bare_name
from ally_plugins.contract.wording import describe, nearest, suggest
from ally_plugins.policy.permissions import GrantSet

from .decide.loosening import WHOLE_FILE
from .decide.placement import place
from .decide.plan import Plan, agreed_facts, default_grants, is_for_review, requested_grant, source_keys
from .decide.policy_rules import forbidden_grants, is_guarding, missing_mandatory, not_allowed
from .decide.record import PluginRecord
from .decide.state import judge
from .discovery.configured_sources import choose
from .discovery.plugin_search import find_plugins
from .discovery.source import Search
from .environments.build import chosen_interpreter
from .home.config import PluginConfig
from .home.config_edits import edit_config
from .home.consent import Agreement, listing_of, write_consent
from .home.folder import PLUGINS_VARIABLE
from .home.machine_policy import read_policy
from .home.quarantine import read_quarantine, set_quarantine
from .home.secret_store import SecretStore
from .plugin_class import load_class
from .plugin_facts import Gathered, Settled, emptied_config_error, gather, names_of, read_settled
from .protected_places import protected_places, refused_files
from .settling import agree_to_file, settle, settled_now

if TYPE_CHECKING:
    from ally_plugins.contract.settings import Setting
    from ally_plugins.policy.protected_places import ProtectedPlace

    from .decide.state import Facts
    from .discovery.found import Discovery
    from .home.config import Placement
    from .home.folder import Home

__all__ = ["PLUGINS_VARIABLE", "OperatorChange", "Plan", "PluginRecord", "Registry", "load_class", "no_plugin"]


def no_plugin(name: str, names: Collection[str]) -> ConfigError:
    """Return the error for the name of a plugin that is not among those that are there."""
    way_out = suggest(name, names) if names else "nor any other; to get one: ally-plugins install NAME"
    return ConfigError(f"no plugin {describe(name)} is installed, {way_out}", path=name)


@frozen(kw_only=True)
class OperatorChange:
    """What an operator has changed, ready for the audit: never with a secret in it.

    `kind` is enable, disable, grant, revoke, shadow, setting, place, quarantine, release, loosen or forget.
    """

    kind: str
    plugin: str
    data: Mapping[str, Any] = FrozenDict()


class Registry:
    """The plugins of one home. It remembers nothing between calls: each reads what is on disk then.

    `only` is ALLY_PLUGINS unless given: None for all, or the names that may be loaded. `now` gives Unix seconds. `find`
    stands in for the sources that config.toml names. With `remembers`, what is installed may come from the cache in the
    home. Daemons can write that, so it is only for showing: a host that runs what is found searches again (some 20 ms).
    """

    def __init__(
        self,
        home: Home,
        *,
        only: Iterable[str] | None = None,
        find: Callable[[], Discovery] | None = None,
        remembers: bool = False,
        now: Callable[[], float] = time,
    ) -> None:
        self.home: Final = home
        self.secrets: Final = SecretStore(home)
        self._only: Final = _only_from_environment() if only is None else frozenset(only)
        self._find: Final = find
        self._remembers: Final = remembers
        self._now: Final = now
        self.problems: tuple[str, ...] = ()
        """What `load` found wrong that is not about one plugin; one line each."""

    def load(self) -> tuple[PluginRecord, ...]:
        """Return every plugin that is installed or enabled, by name. Sets `problems`.

        Where a folder and a package have one name there are two records of it; the chosen one comes first, and the
        other one is never enabled. Raises ConsentError as `read_consent` does, and ConfigError when config.toml is
        wrong, or does not mention a plugin that was agreed to: it was emptied or cut off, and a gate may be gone with
        it. Blocks on files, as every method does: not for the event loop's thread.
        """
        gathered = self._gather(read_settled(self.home))
        if gathered.unanswered:
            raise emptied_config_error(self.home, gathered.unanswered)
        names = {name for fact in gathered.facts for name in names_of(fact)}
        unknown = sorted((self._only or frozenset()) - names)
        self.problems = (*gathered.problems, *(_unknown_in_variable(name, names) for name in unknown))
        return self._judged(gathered)

    def missing_mandatory(self, records: Iterable[PluginRecord]) -> str:
        """Return why the machine's policy lets no host start with these plugins, and the way out; empty where it does.

        Raises ConfigError for a policy that cannot be used.
        """
        return missing_mandatory(read_policy(), records)

    def load_one(self, name: str) -> PluginRecord | None:
        """Return the chosen plugin of this name, None when it is neither installed nor enabled.

        Other plugins are not read, which makes it cheap. Raises as `load`, for an agreement that config.toml does not
        mention only where it is this plugin's.
        """
        gathered = self._gather(read_settled(self.home), name)
        if gathered.unanswered:
            raise emptied_config_error(self.home, gathered.unanswered)
        return next(iter(self._judged(gathered)), None)

    def facts(self) -> tuple[Facts, ...]:
        """Return what is known of every plugin, before anything is decided: no secret is looked up.

        Raises ConfigError and ConsentError for files that cannot be read. Blocks on files.
        """
        return tuple(self._gather(read_settled(self.home)).facts)

    def _gather(self, settled: Settled, about: str | None = None) -> Gathered:
        return gather(self.home, settled, self._discovered(settled, about), self._only, about)

    def _judged(self, gathered: Gathered) -> tuple[PluginRecord, ...]:
        return tuple(judge(fact, self.secrets.lookup) for fact in gathered.facts)

    def get(self, name: str) -> PluginRecord:
        """Return one plugin. Raises ConfigError, which names the nearest one, when there is no such plugin.

        `folder:NAME` and `package:NAME` choose among several of one name; a bare name is the chosen one. Unlike `load`
        it works with an emptied config.toml, in which nothing is enabled: the commands that mend it need that.
        """
        return self._get(read_settled(self.home), name)

    def _get(self, settled: Settled, name: str) -> PluginRecord:
        bare = bare_name(name)
        for record in self._named(settled, bare):
            if name in {bare, f"{record.origin}:{bare}"}:
                return record
        names = tuple(fact.label or fact.name for fact in self._gather(settled).facts)
        raise no_plugin(name, names)

    def _named(self, settled: Settled, name: str) -> tuple[PluginRecord, ...]:
        """Return the plugins of this name, the chosen one first."""
        return self._judged(self._gather(settled, name))

    def qualified_name(self, name: str) -> str:
        """Return the name that `enable NAME` is about: of several plugins with one name, the one listed by it alone."""
        found = [record for record in self._named(read_settled(self.home), name) if record.origin is not None]
        usual = next((record.origin for record in found if record.label == name), None)
        return f"{usual}:{name}" if usual is not None and len(found) > 1 else name

    def review(self) -> tuple[PluginRecord, ...]:
        """Return the plugins that the operator should look at: new ones, larger requests, changed code, quarantine.

        Raises as `load`.
        """
        return tuple(record for record in self.load() if is_for_review(record))

    def _discovered(self, settled: Settled, about: str | None = None) -> Discovery:
        if self._find is not None:
            return self._find()
        sources = choose(settled.config.sources, self.home)
        cache_dir = None
        if self._remembers:
            with suppress(ConfigError):  # a home that cannot be written can still be read
                self.home.prepare()
            cache_dir = self.home.run_dir
        return find_plugins(sources, Search(home=self.home.path, about=about, cache_dir=cache_dir))

    # Consent

    def plan(self, name: str, only: Iterable[str] | None = None, *, placement: Placement | None = None) -> Plan:
        """Return what enabling would agree to and grant.

        With `only`, it grants just those. Without, it grants everything to a new plugin; to one that was agreed to
        before, what it has and what it newly requests; to one that config.toml grants something by hand, that. Show
        the plan to the operator, then give it to `enable`. With `placement` it is placed there before it runs at all;
        without, a plugin that was never enabled or placed goes into a sandbox, if one can hold it, and any other one
        stays where it is. Raises ConfigError for an unknown plugin, and ConsentError for what the plugin does not
        request, for a placement in which it cannot run, where no sandbox can hold it and `sandbox = "require"`, or for
        a plugin that cannot be loaded.
        """
        record = self.get(name)
        if record.state in ("broken", "not installed") or (record.found is not None and record.found.problem):
            reason = record.found.problem if record.found is not None else ""
            raise ConsentError(f"{name!r} cannot be enabled: {reason or record.reason}")
        policy = read_policy()
        if record.found is not None and (why := not_allowed(policy, record.name, record.found)):
            raise ConsentError(f"{name!r} cannot be enabled: {why}; ask who administers this machine")
        if placement is not None:
            record = self._placed(record, placement)
        elif record.is_unplaced:
            _check_required(record)
            placement = record.config.placement
        refused = self._refused(record.name, record.requested.grants)
        if only is None:
            chosen = GrantSet(frozenset(each for each in default_grants(record).grants if each.text not in refused))
        else:
            chosen = GrantSet.of(requested_grant(record, text) for text in only)
            self._check_possible(name, chosen.grants)
        return Plan(record=record, grants=chosen, placement=placement, refused=refused)

    def _placed(self, record: PluginRecord, placement: Placement) -> PluginRecord:
        """Return a plugin as it would be in a placement. Raises ConsentError where it cannot run so."""
        assert record.found is not None  # noqa: S101 - of one that is not there, there is no plan
        config = evolve(record.config, placement=placement)
        placed = place(record.name, record.found, config, chosen_interpreter(self.home, record.name, config))
        if placed.problem:
            raise ConsentError(f"{record.label!r} cannot run so: {placed.problem}")
        return evolve(record, config=config, daemon=placed.daemon, python=placed.python, outside="")

    def _refused(self, name: str, grants: Iterable[Grant]) -> Mapping[str, str]:
        """Return which grants, as texts, no operator can give a plugin, each with the reason.

        Those that would give it files that none is given, and those above its ceiling in the machine's policy.
        """
        grants = list(grants)
        files = [grant for grant in grants if grant.kind == "files"]
        above = forbidden_grants(read_policy(), name, grants)
        # Searched for only then: all plugins are looked for, since the code of each is protected.
        return {**refused_files(files, self.protected_places()), **above} if files else above

    def _check_possible(self, name: str, grants: Iterable[Grant]) -> None:
        for text, reason in self._refused(name, grants).items():
            narrower = "; grant a narrower path" if text.startswith("files:") else ""
            raise ConsentError(f"{name!r} cannot be granted {text!r}: {reason}{narrower}")

    def _check_not_mandatory(self, settled: Settled, name: str, what: str) -> None:
        """Refuse what would take a guard away that the machine's policy makes mandatory. Raises ConsentError."""
        if name in settled.policy.mandatory:
            way_out = "ask who administers this machine"
            raise ConsentError(f"{settled.policy.file} makes {name!r} mandatory, so it cannot be {what}; {way_out}")

    def protected_places(self) -> tuple[ProtectedPlace, ...]:
        """Return what no plugin is given, whatever was granted. Raises as `facts`. Blocks on files."""
        discovery = self._discovered(read_settled(self.home))
        return protected_places(self.home, discovery.found)

    def enable(self, plan: Plan, by: str = "person") -> OperatorChange:
        """Agree to a plan; `by` is who agreed, for the audit. Raises ConsentError when the plugin has changed since."""
        name, label = plan.record.name, plan.record.label
        with self.home.locked():
            settled = read_settled(self.home)
            # Searched anew under the lock: between the plan and the yes to it, an upgrade may have come. By its origin,
            # since the bare name may mean another one meanwhile.
            record = self._get(settled, f"{plan.record.origin}:{name}")
            # Without a placement in the plan it stays where it is, which was shown too.
            is_elsewhere = plan.placement is None and record.placement != plan.record.placement
            if is_elsewhere or agreed_facts(record) != agreed_facts(plan.record):
                raise ConsentError(f"{label!r} has changed since it was shown", command=f"ally-plugins enable {label}")
            placement = plan.record.config.placement
            agreement = evolve(self._agreement(record, by), placement=placement)
            # The grants last: a file that is cut off before them is noticed.
            placed = {} if placement is None else {"placement": placement}
            keys = {"enabled": True, **placed, "grants": list(plan.grants.texts())}
            # Before the consent: an agreement that config.toml does not mention looks as if that file had been emptied.
            changed: dict[str, Any] = {}

            def change(before: dict[str, Any]) -> dict[str, Any]:
                changed.update(source_keys(record, before) | keys)
                return changed

            edit_config(self.home, name, change, settled.config)
            agreement = evolve(agreement, settled=settled_now(self.home, settled, name, changed))
            # What holds for the host is kept from the first agreement on.
            write_consent(self.home, {**settled.agreements, name: agreement}, settled.agreed or settled.config)
        data = {"grants": plan.grants.texts(), "requests": agreement.requests, "durable": agreement.durable or (),
                "by": by, "code": agreement.code, "placement": plan.record.placement}  # fmt: skip
        return _change("enable", name, **data, distribution=record.distribution, version=record.version)

    def _agreement(self, record: PluginRecord, by: str) -> Agreement:
        found = record.found
        is_package = record.origin == "package"
        return Agreement(
            requests=record.requested.texts(),
            distribution=record.distribution,
            version=record.version,
            code=found.digest if found is not None else "",
            # The digest of a folder is over its files already; that of a package is over RECORD, so its files are read.
            files="" if found is None else found.content_digest() if is_package else found.digest,
            at=datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds"),
            by=by,
            listing=listing_of(found.files) if found is not None else (),
            durable=record.durable,
        )

    def disable(self, name: str) -> OperatorChange:
        """Stop loading a plugin; its grants and settings stay for the next time.

        Raises ConfigError for an unknown plugin, and ConsentError for one of several that is not the chosen one.
        """
        with self.home.locked():
            settled = read_settled(self.home)
            name = self._own_name(settled, name)
            self._check_not_mandatory(settled, name, "disabled")
            settle(self.home, settled, name, lambda _: {"enabled": False})
        return _change("disable", name)

    def loosened_for_host(self) -> tuple[str, ...]:
        """Return the keys about no single plugin that `config.toml` loosens and nobody has agreed to.

        Raises ConfigError and ConsentError for files that cannot be read. Blocks on files.
        """
        return read_settled(self.home).loosened.get(WHOLE_FILE, ())

    def agree_to_file(self, shown: Mapping[str, tuple[str, ...]]) -> OperatorChange:
        """Agree to what `config.toml` loosens, as it was shown by plugin, or under `WHOLE_FILE`.

        Raises ConsentError where that has changed since.
        """
        agree_to_file(self.home, shown)
        return _change("loosen", ", ".join(shown), keys=FrozenDict(shown))

    def forget(self, name: str) -> OperatorChange | None:
        """Remove what a package was granted and agreed to for, so that one installed again under this name is new.

        Returns None, and changes nothing, where the operator has chosen a folder or another source for this name: all
        that is kept under it is about that one.
        """
        with self.home.locked():
            settled = read_settled(self.home)
            # The choice alone, without a search: it stands when what was chosen is not there just now.
            if settled.config.of(name).origin not in {None, "package"}:
                return None
            # First, unlike in `enable`, and for the same reason: with only this written the plugin waits for consent;
            # with only its keys removed, config.toml would look as if it had been emptied.
            left = {other: kept for other, kept in settled.agreements.items() if other != name}
            write_consent(self.home, left, settled.agreed)
            if name in settled.config.plugins:
                edit_config(self.home, name, lambda _: {"enabled": None, "grants": None}, settled.config)
            set_quarantine(self.home, name, None, settled.names)
        return _change("forget", name)

    def grant(self, name: str, text: str) -> OperatorChange:
        """Grant one thing. Raises ConsentError when the plugin does not request it, or when it is not agreed to yet."""
        grant = Grant.parse(text)
        with self.home.locked():
            settled = read_settled(self.home)
            record = self._chosen_record(settled, name)
            name = record.name
            requested_grant(record, text)
            if record.agreement is None or not record.agreement.grants.covers(grant):
                command = f"ally-plugins enable {name}"
                raise ConsentError(f"{name!r} waits for consent; agree first: {command}", command=command)
            self._check_possible(name, [grant])
            # The narrower ones go: they would outlive a `revoke` of the wider one, unseen until then.
            kept = {own for own in record.config.grants.grants if not grant.covers(own)}
            if not record.config.grants.covers(grant):
                self._write_grants(settled, name, kept | {grant})
        return _change("grant", name, grant=grant.text)

    def revoke(self, name: str, text: str) -> OperatorChange:
        """Revoke a grant, or all of one kind (`add_message`). Raises ConsentError when it was not granted."""
        with self.home.locked():
            settled = read_settled(self.home)
            name = self._own_name(settled, name)
            granted = settled.config.of(name).grants
            gone = {own for own in granted.grants if own.text == text or own.text.startswith(f"{text}:")}
            if not gone:
                # Parsed only for its error: a kind alone (`add_message`) is no grant, and may be revoked.
                Grant.parse(text)
                held = ", ".join(granted.texts()) or "nothing"
                raise ConsentError(f"{name!r} does not have the grant {describe(text)}; it has {held}")
            if any(map(is_guarding, gone)):
                self._check_not_mandatory(settled, name, f"without {text}")
            self._write_grants(settled, name, granted.grants - gone)
        return _change("revoke", name, grants=tuple(sorted(grant.text for grant in gone)))

    def _write_grants(self, settled: Settled, name: str, grants: Iterable[Grant]) -> None:
        texts = sorted(grant.text for grant in grants)
        settle(self.home, settled, name, lambda _: {"grants": texts})

    def shadow(self, name: str, hooks: bool | Iterable[str]) -> OperatorChange:  # noqa: FBT001  # True and False are values here
        """Record the gates and transforms of a plugin without enforcing them: all of them, none, or those named.

        Raises ConfigError for a hook that does not exist.
        """
        value = (
            hooks
            if isinstance(hooks, bool)
            else [name for hook in hooks for name in HOOKS_OF_TOPICS.get(hook, (hook,))]
        )
        with self.home.locked():
            settled = read_settled(self.home)
            name = self._own_name(settled, name)
            if value:
                self._check_not_mandatory(settled, name, "shadowed")
            settle(self.home, settled, name, lambda _: {"shadow": value})
        return _change("shadow", name, shadow=value if isinstance(value, bool) else tuple(value))

    # Settings

    def set_setting(self, name: str, key: str, text: str | None) -> OperatorChange:
        """Set a setting from its text; None removes it. Secrets go to the secret store.

        Raises ConfigError, without the value when it is a secret, for an unknown key or a wrong value.
        """
        with self.home.locked():
            settled = read_settled(self.home)
            record = self._chosen_record(settled, name)
            name = record.name
            setting = _setting_of(record, key)
            if setting.secret:
                self._set_secret(name, key, text)
            else:
                value = None if text is None else _parsed(name, setting, text)
                settle(self.home, settled, name, lambda _: {"settings": {key: value}})
        is_set = {"secret": True} if setting.secret else {"value": text}
        return _change("setting", name, key=key, is_removed=text is None, **is_set)

    def _set_secret(self, name: str, key: str, text: str | None) -> None:
        if text is None:
            self.secrets.delete(name, key)
        else:
            self.secrets.set(name, key, text)

    # Placement

    def place(
        self, name: str, placement: Placement, *, interpreter: str | None = None, environment: str | None = None
    ) -> OperatorChange:
        """Settle where a plugin runs, and in a process with which Python: the host's unless one is named.

        Raises ConsentError for what the plugin cannot, ConfigError for a Python or an environment that is not there.
        """
        if interpreter is not None and not Path(interpreter).is_absolute():
            raise ConfigError(f"interpreter: found {describe(interpreter)}, expected the absolute path of a Python")
        config = PluginConfig(placement=placement, interpreter=interpreter or "", environment=environment or "")
        with self.home.locked():
            settled = read_settled(self.home)
            record = self._chosen_record(settled, name)
            name = record.name
            if record.found is None or record.found.problem is not None:
                raise ConsentError(f"{name!r} cannot be placed: {record.reason}")
            # Tried before it is written: what cannot run would deny at the next start, when nobody looks.
            chosen = chosen_interpreter(self.home, name, config)
            placed = place(name, record.found, config, chosen)
            if chosen.problem or placed.problem:
                raise ConsentError(f"{name!r} cannot run so: {chosen.problem or placed.problem}")
            keys = {"placement": placement, "interpreter": interpreter, "environment": environment}
            settle(self.home, settled, name, lambda _: keys, placement=placement)
        return _change("place", name, **{key: value for key, value in keys.items() if value is not None})

    # Quarantine

    def quarantine(self, name: str, reason: str) -> OperatorChange:
        """Keep a plugin from being loaded until it is released; for the host, after too many failures.

        Raises ConfigError when that cannot be written.
        """
        with self.home.locked():
            set_quarantine(self.home, name, reason, read_settled(self.home).names)
        return _change("quarantine", name, reason=reason)

    def release(self, name: str) -> OperatorChange:
        """Let a quarantined plugin be loaded again. Raises ConsentError when it is not quarantined."""
        name = bare_name(name)
        with self.home.locked():
            stopped, names = read_quarantine(self.home), read_settled(self.home).names
            # Of a damaged file any name counts as stopped; a name that neither file of the operator has is a slip.
            if stopped.of(name) is None or (stopped.damage and name not in names):
                raise ConsentError(f"{describe(name)} is not in quarantine")
            set_quarantine(self.home, name, None, names)
        return _change("release", name)

    def _own_name(self, settled: Settled, name: str) -> str:
        """Return the plugin's name without its origin. Raises ConsentError when it is not the chosen one of it."""
        # Without a search, since what is damaged or gone must be disabled and revoked all the same.
        if ":" not in name and name in settled.names:
            return name
        return self._chosen_record(settled, name).name

    def _chosen_record(self, settled: Settled, name: str) -> PluginRecord:
        """Return the plugin of a label. Raises ConsentError when another one of its name is the chosen one."""
        record = self._get(settled, name)
        if record.is_set_aside:
            raise ConsentError(f"{name!r} is not the one that counts: {record.reason}")
        return record


def _only_from_environment() -> frozenset[str] | None:
    given = os.environ.get(PLUGINS_VARIABLE, "").strip()
    if not given:
        return None
    return frozenset() if given == "none" else frozenset(name.strip() for name in given.split(",") if name.strip())


def _unknown_in_variable(name: str, names: set[str]) -> str:
    close = nearest(name, names)
    hint = f", did you mean {close!r}?" if close else ""
    return f"{PLUGINS_VARIABLE} names {describe(name)}, which is not installed{hint}"


def _check_required(record: PluginRecord) -> None:
    """Raise ConsentError for a plugin that no sandbox can hold, where config.toml requires one."""
    if record.outside and record.config.sandbox == "require":
        command = f"ally-plugins enable {record.label} --place {record.placement}"
        text = f"{record.label!r} is not enabled: config.toml says sandbox = 'require', and {record.outside}"
        raise ConsentError(f"{text}; to run it without one: {command}", command=command)


def _setting_of(record: PluginRecord, key: str) -> Setting:
    name, settings = record.name, record.manifest.settings
    if key not in settings:
        path = f"plugins.{name}.settings.{key}"
        raise ConfigError(f"{name!r} has no setting {describe(key)}, {suggest(key, tuple(settings))}", path=path)
    return settings[key]


def _parsed(name: str, setting: Setting, text: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        path = f"plugins.{name}.settings.{setting.name}"
        command = f"ally-plugins config {name} {setting.name}=VALUE"
        raise ConfigError(f"{path}: {error}: {command}", path=path) from None


def _change(kind: str, plugin: str, **data: Any) -> OperatorChange:
    return OperatorChange(kind=kind, plugin=plugin, data=FrozenDict(data))

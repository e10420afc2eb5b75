"""What a shell offers behind Tab: names of plugins, grants, settings and kinds of records.

Nothing here is looked up in a keyring, imported or started, and whatever fails offers nothing: a person is typing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.shell_completion import CompletionItem

from .state import state_of
from .text import preview

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import click

    from ally_plugins.catalog.decide.state import Facts

__all__ = ["grants_held", "grants_requested", "plugin_names", "record_kinds", "setting_keys", "settings_to_assign"]


def plugin_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the plugins that are installed or enabled, each with its description."""
    described = ((fact.label or fact.name, _description(fact)) for fact in _facts(ctx))
    return _offered(described, incomplete)


def grants_requested(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer what the plugin of the command line asks for and has not been granted, each with its reason."""
    found = [
        (request.grant.text, request.reason)
        for fact in _named(ctx)
        if fact.found is not None and fact.found.manifest is not None
        for request in fact.found.manifest.requests
        if not fact.config.grants.covers(request.grant)
    ]
    return _offered(found, incomplete, typed=ctx.params.get(param.name or ""))


def grants_held(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer what the plugin of the command line has been granted."""
    texts = [text for fact in _named(ctx) for text in fact.config.grants.texts()]
    return _offered([(text, "") for text in texts], incomplete, typed=ctx.params.get(param.name or ""))


def setting_keys(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the settings of the plugin of the command line."""
    return _offered(((name, about) for name, about, _ in _settings(ctx)), incomplete)


def settings_to_assign(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the same with the `=` before a value; a secret has none on a command line."""
    rows = ((name if is_secret else f"{name}=", about) for name, about, is_secret in _settings(ctx))
    return _offered(rows, incomplete)


def record_kinds(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the kinds of records that this version writes."""
    from .journal_rows import KINDS

    return _offered(((kind, "") for kind in sorted(KINDS)), incomplete)


def _facts(ctx: click.Context) -> Sequence[Facts]:
    try:
        return state_of(ctx).registry.facts()
    except Exception:  # noqa: BLE001 - a home that cannot be read is told by the command, not while it is typed
        return ()


def _named(ctx: click.Context) -> list[Facts]:
    # Where an option lacks its value, which is being typed, click has not told the arguments apart.
    name = ctx.params.get("name") or next(iter(ctx.args), None)
    # The first only: of a package and a folder with one name, the chosen one stands first.
    return [fact for fact in _facts(ctx) if name in {fact.label or fact.name, fact.name}][:1]


def _settings(ctx: click.Context) -> list[tuple[str, str, bool]]:
    return [
        (setting.name, setting.description, setting.secret)
        for fact in _named(ctx)
        if fact.found is not None and fact.found.manifest is not None
        for setting in fact.found.manifest.settings.values()
    ]


def _description(fact: Facts) -> str:
    return fact.found.manifest.description if fact.found is not None and fact.found.manifest is not None else ""


def _offered(found: Iterable[tuple[str, str]], incomplete: str, typed: Any = ()) -> list[CompletionItem]:
    """Return what begins so and is not typed yet; a name that a shell would take apart, or act upon, is left out."""
    return [
        CompletionItem(text, help=preview(about) or None)
        for text, about in found
        if text.startswith(incomplete) and text not in (typed or ()) and text.isprintable() and " " not in text
    ]

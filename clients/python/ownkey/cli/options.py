"""Options that several commands take: the facts about an asset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ownkey.cli.main import Shared
from ownkey.models import ASSET_CLASSES, Asset

F = TypeVar("F", bound=Callable[..., Any])


def parse_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """A time with its zone, if one is given."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time such as 2026-01-31T09:30:00Z") from None
    if time.tzinfo is None:
        example = time.isoformat(timespec="seconds") + "Z"
        raise click.BadParameter(f"{value!r} needs a time zone, such as {example}")
    return time


def parse_pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``("a=b", "c=d")`` as a dictionary."""
    pairs = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} must be KEY=VALUE")
        pairs[key] = text
    return pairs


def _tenant(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """The tenant: what stands after the command's name counts most, then what stands before, then the variable."""
    given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    before = context.ensure_object(Shared).tenant
    return (value if given else before or value) or ""


def _required_tenant(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    tenant = _tenant(context, parameter, value)
    if not tenant:
        raise click.MissingParameter(ctx=context, param=parameter)
    return tenant


tenant_option = click.option(
    "--tenant",
    callback=_required_tenant,
    envvar="OWNKEY_TENANT",
    show_envvar=True,
    help="Id of the tenant.  [required]",
)
optional_tenant_option = click.option(
    "--tenant", callback=_tenant, envvar="OWNKEY_TENANT", show_envvar=True, help="Id of the tenant."
)
group_option = click.option("--group", default="", help="Id of one of the tenant's groups; else found by the user.")
user_option = click.option("--user", default="", help="Id of the owner, as the tenant's groups name it.")
context_option = click.option(
    "--context",
    "extra_context",
    multiple=True,
    callback=parse_pairs,
    metavar="KEY=VALUE",
    help="A pair to bind besides.",
)


def asset_options(*, required: bool = True) -> Callable[[F], F]:
    """The facts about an asset; class and id may be left out where the object tells them."""
    options = (
        tenant_option,
        click.option(
            "--class",
            "asset_class",
            required=required,
            type=click.Choice(list(ASSET_CLASSES)),
            metavar="CLASS",
            help=f"The kind of content: {', '.join(ASSET_CLASSES)}.",
        ),
        click.option("--asset-id", required=required, help="Your id of the content, unique within tenant and class."),
        click.option(
            "--origin",
            type=click.Choice(["created", "uploaded"]),
            default="created",
            show_default=True,
            help="Made by the service, or uploaded by a user.",
        ),
        user_option,
        group_option,
        click.option(
            "--created", "create_time", callback=parse_time, metavar="TIME", help="When it came into being; else now."
        ),
    )
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def asset_of(options: dict[str, Any]) -> Asset:
    """Take the asset's facts out of a command's options."""
    names = ("tenant", "asset_class", "asset_id", "origin", "user", "group", "create_time")
    return Asset(**{name: options.pop(name) for name in names})

"""What the commands of ``ownkey aws`` take alike, and how they say what cannot be taken."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import click

from ownkey_server.keystores.aws.policies import PolicyInvalid
from ownkey_server.keystores.aws.scopes import ScopeInvalid
from ownkey_server.storage.tables import ID_PATTERN

DEFAULT_ROLE = "ownkey"

role_option = click.option(
    "--role-name",
    default=DEFAULT_ROLE,
    show_default=True,
    help="Name of the role in the customer's account, as role_name of the key store's settings has it.",
)


def require_tenant(tenant: str) -> str:
    """The id, if it is a tenant's.

    Raises:
        PolicyInvalid: It is none.
    """
    if not re.fullmatch(ID_PATTERN, tenant):
        raise PolicyInvalid(f"{tenant!r} is no tenant's id: up to 63 of a-z, 0-9 and -, such as acme")
    return tenant


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What makes no policy, said as a mistake in the command line."""
    try:
        yield
    except (PolicyInvalid, ScopeInvalid) as error:
        raise click.UsageError(str(error)) from None

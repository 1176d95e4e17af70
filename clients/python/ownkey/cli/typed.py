"""What the user typed that became a field of a request: errors name the option, and not the field."""

from __future__ import annotations

import re

import click

from ownkey.errors import OwnkeyError

# Parameters of commands that are not called as the field is, nor that and ``_id``.
_OTHER_NAMES = {"id": ("tenant_id", "principal_id"), "service_principal": ("principal_id",), "key_store": ("store",)}
_SUBSCRIPT = re.compile(r"\[.*")


def in_the_user_s_words(error: OwnkeyError, context: click.Context | None) -> str:
    """The error's message, with options and arguments of the command in place of fields of its request."""
    if context is None or not error.violations:
        return str(error)
    return "; ".join(
        f"{typed_as(field, context.command) or field}: {what}" if field else what
        for field, what in error.violations.items()
    )


def typed_as(field: str, command: click.Command) -> str:
    """The option or argument that a field such as ``start.asset.tenant`` is from; empty when there is none."""
    name = _SUBSCRIPT.sub("", field).rpartition(".")[2]
    names = (name, f"{name}_id", *_OTHER_NAMES.get(name, ()))
    for parameter in command.params:
        if parameter.name in names:
            if isinstance(parameter, click.Option):
                return max(parameter.opts, key=len)
            return parameter.metavar or str(parameter.name).upper()
    return ""

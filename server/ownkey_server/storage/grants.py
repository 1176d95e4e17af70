"""How grants of roles are written: in requests, and in the database as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints, TypeAdapter, model_validator

from ownkey_server.domain.assets import AssetClass
from ownkey_server.domain.roles import ACCESS, EVERYWHERE, Grant, Role
from ownkey_server.storage.tables import ID_PATTERN, Table

MAX_GRANTS = 64
# Roles whose methods are about assets: for the others, a grant for some asset classes would say what does not count.
_ABOUT_ASSETS = frozenset({Role.RECORDER, Role.PLAYER, Role.DATA, Role.CALL_GATE})


class GrantTable(Table):
    """A role, and for what it is held."""

    role: Role
    tenant: Annotated[str, StringConstraints(pattern=rf"{ID_PATTERN}|^\{EVERYWHERE}$")]
    asset_classes: list[AssetClass] = Field(default=[])
    methods: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _limit_only_what_it_has(self) -> Self:
        if self.asset_classes and self.role not in _ABOUT_ASSETS:
            raise ValueError(f"role {self.role.value} is not about assets: leave asset_classes out")
        own = sorted(name for name, access in ACCESS.items() if self.role in access.roles)
        for method in self.methods:
            if method not in own:
                raise ValueError(f"role {self.role.value} has no method {method!r}; it has: {', '.join(own)}")
        return self

    def to_domain(self) -> Grant:
        """The grant as it decides."""
        return Grant(self.role, self.tenant, frozenset(self.asset_classes), frozenset(self.methods))


_GRANTS = TypeAdapter(Annotated[list[GrantTable], Field(max_length=MAX_GRANTS)])


def grants_of(text: str) -> tuple[Grant, ...]:
    """The grants in a column of the database.

    Raises:
        ValueError: It holds something else: somebody changed it by hand.
    """
    return tuple(table.to_domain() for table in _GRANTS.validate_json(text))


def grants_json(grants: Sequence[Grant]) -> str:
    """The grants as a column of the database has them."""
    tables = [
        GrantTable(
            role=one.role, tenant=one.tenant, asset_classes=sorted(one.asset_classes), methods=sorted(one.methods)
        )
        for one in grants
    ]
    return _GRANTS.dump_json(tables, exclude_defaults=True).decode()

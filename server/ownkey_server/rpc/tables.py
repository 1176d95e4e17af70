"""Tables of the storage, made of what a message says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ownkey_server.domain.errors import InvalidRequest
from ownkey_server.rpc.errors import InvalidRequests
from ownkey_server.storage.documents import describe
from ownkey_server.storage.tables import Table

T = TypeVar("T", bound=Table)


def table(kind: type[T], fields: Mapping[str, Any], at: str) -> T:
    """The table that these fields make.

    Args:
        kind: What it is.
        fields: By name.
        at: Where they are in the request, for complaints.

    Raises:
        InvalidRequests: They make none.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        violations = [InvalidRequest(f"{at}.{where}" if where else at, what) for where, what in describe(error, kind)]
        raise InvalidRequests(violations) from None

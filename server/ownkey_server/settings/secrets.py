"""Settings that say where a secret is, and never what it is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PlainSerializer
from pydantic_core import PydanticCustomError

from ownkey_server.secret_sources import ReferenceInvalid, SecretReference


def _parse_reference(value: object) -> SecretReference:
    try:
        return SecretReference.parse(value if isinstance(value, str) else "")
    except ReferenceInvalid as error:
        raise PydanticCustomError("secret_reference", str(error)) from None


SecretSetting = Annotated[InstanceOf[SecretReference], BeforeValidator(_parse_reference), PlainSerializer(str)]

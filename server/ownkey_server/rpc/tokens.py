"""Which principal a bearer token names: JSON Web Tokens of OpenID Connect issuers (RFC 7519, RFC 8725)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from ownkey_server.domain.clock import Clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.jwks import KeySet
from ownkey_server.rpc.principals import require_principal
from ownkey_server.settings.access import IssuerSettings

MAX_TOKEN = 8 * 1024
# How far the issuer's clock may be from ours.
LEEWAY_SECONDS = 30
_KEPT = 4096
_EMAIL, _VERIFIED = "email", "email_verified"


@dataclass(frozen=True, slots=True)
class _Issuer:
    name: str
    settings: IssuerSettings
    keys: KeySet


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was verified by the keys of that version."""

    principal: str
    expires_at: float
    issuer: _Issuer
    version: int


class Tokens:
    """Tells the principal of a bearer token. Belongs to one event loop.

    Args:
        issuers: Whose tokens are taken, by the name that begins their principals' names.
        clock: Tells the time.

    Raises:
        UnusableFile: The keys of an issuer are in a file that cannot be used.
    """

    def __init__(self, issuers: Mapping[str, IssuerSettings], clock: Clock) -> None:
        self._clock = clock
        self._issuers = {one.issuer: _Issuer(name, one, KeySet(name, one)) for name, one in issuers.items()}
        # By the token's hash: a signature costs as much as all the rest of a call.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    @property
    def taken(self) -> bool:
        """Whether tokens are taken at all."""
        return bool(self._issuers)

    async def principal(self, token: str) -> str:
        """Who the caller is.

        Raises:
            Unauthenticated: The token does not hold, or is not for this service.
            ServiceImpaired: Its issuer's keys are not known.
        """
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} bytes")
        mark = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._verified.get(mark)
        if known is not None:
            if known.version == known.issuer.keys.look() and self._clock().timestamp() < known.expires_at:
                return known.principal
            del self._verified[mark]
        found = await self._verify(token)
        self._verified[mark] = found
        if len(self._verified) > _KEPT:
            self._verified.popitem(last=False)
        return found.principal

    async def _verify(self, token: str) -> _Verified:
        header, said = unverified(token)
        issuer = self._issuers.get(str(said.get("iss", "")))
        if issuer is None:
            raise Unauthenticated("the token is of an issuer that this server does not know")
        settings = issuer.settings
        if header.get("alg") not in settings.algorithms:
            raise Unauthenticated(f"the token is not signed by one of: {', '.join(settings.algorithms)}")
        if "crit" in header:  # RFC 7515, section 4.1.11: nothing of it is understood here
            raise Unauthenticated("the token has a critical header, which is not understood here")
        _require_type(header, settings)
        key, version = await issuer.keys.key(str(header.get("kid", "")))
        if key is None:
            raise Unauthenticated("the token is signed by a key that its issuer does not have")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                # Against our own clock, which tests can set, below.
                options={
                    "require": ["exp", "iat", "iss", "aud"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is for another audience") from None
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token does not hold: {_why(error)}") from None
        expires_at = self._require_time(claims, settings)
        _require_party(claims, settings)
        name = claims.get(settings.principal_claim)
        if not isinstance(name, str) or not name:
            raise Unauthenticated(f"the token has no claim {settings.principal_claim!r} that names its bearer")
        if settings.principal_claim == _EMAIL and claims.get(_VERIFIED) is not True:
            # Many issuers let their users write any address: OpenID Connect Core, section 5.7.
            raise Unauthenticated(f"the token's issuer has not verified the address: {_VERIFIED} is not true")
        principal = require_principal(f"{issuer.name}/{name}")
        return _Verified(principal, expires_at, issuer, version)

    def _require_time(self, claims: Mapping[str, Any], settings: IssuerSettings) -> float:
        now = self._clock().timestamp()
        try:
            expires_at, issued_at = float(claims["exp"]), float(claims["iat"])
            begins_at = float(claims.get("nbf", issued_at))
        except (TypeError, ValueError, OverflowError):
            raise Unauthenticated("the token's times are no numbers") from None
        if not now < expires_at + LEEWAY_SECONDS:
            raise Unauthenticated("the token has expired")
        if not (issued_at <= now + LEEWAY_SECONDS and begins_at <= now + LEEWAY_SECONDS):
            raise Unauthenticated("the token is not valid yet")
        if not expires_at - issued_at <= settings.max_token_seconds:
            raise Unauthenticated(f"the token is valid for longer than {settings.max_token_seconds:g} s")
        return expires_at + LEEWAY_SECONDS


def unverified(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the token says before anything of it was verified: only to find the key by."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated("the token is no JSON Web Token") from None
    return header, claims


def _require_type(header: Mapping[str, Any], settings: IssuerSettings) -> None:
    """Make sure that it is a token of the kind that is asked for (RFC 8725, section 3.11)."""
    if settings.token_type is None:
        return
    said = header.get("typ")
    if not isinstance(said, str) or _type(said) != _type(settings.token_type):
        raise Unauthenticated(f"the token's typ is not {settings.token_type}")


def _type(name: str) -> str:
    return name.lower().removeprefix("application/")


def _require_party(claims: Mapping[str, Any], settings: IssuerSettings) -> None:
    """Make sure that it was made for somebody who may use it here (OpenID Connect Core, section 3.1.3.7, 4 and 5)."""
    audiences = claims["aud"]
    several = isinstance(audiences, list) and len(audiences) > 1
    parties = settings.authorized_parties or ([settings.audience] if several else [])
    if parties and claims.get("azp") not in parties:
        why = "which several audiences need" if several else "which this server asks for"
        raise Unauthenticated(f"the token has no authorized party (azp) of ours, {why}")


def _why(error: jwt.PyJWTError) -> str:
    """What is wrong, in words of our own: the library's may quote the token."""
    match error:
        case jwt.MissingRequiredClaimError():
            return f"it has no claim {error.claim!r}"
        case jwt.InvalidSignatureError():
            return "its signature is not that of its issuer"
        case _:
            return "it is not as a token of its issuer must be"

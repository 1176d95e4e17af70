"""Settings of who is let in: TLS, how callers are known, and what the settings themselves allow them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from ownkey_server.domain.approvals import Danger
from ownkey_server.settings.fields import FilePath, Section, split_url

_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
PRINCIPAL_PATTERN = r"^[a-zA-Z0-9]([a-zA-Z0-9._/:@+|=~%-]*[a-zA-Z0-9])?$"
Principal = Annotated[str, StringConstraints(max_length=512, pattern=PRINCIPAL_PATTERN)]


class _Section(Section, BaseModel):
    """BaseModel too, by which linters know that defaults are copied."""


def _require_domain(name: str) -> str:
    if not _DOMAIN.fullmatch(name):
        raise ValueError("must be a domain in lower case, such as example.org, with neither scheme nor path")
    return name


Domain = Annotated[str, AfterValidator(_require_domain)]


class TlsSettings(_Section):
    """The server's certificate, and whose clients' certificates it takes."""

    certificate_file: FilePath
    private_key_file: FilePath
    client_ca_file: FilePath | None = None
    crl_file: FilePath | None = None
    minimum_version: Literal["1.3", "1.2"] = "1.3"

    @model_validator(mode="after")
    def _need_an_authority_for_a_list(self) -> Self:
        if self.crl_file and not self.client_ca_file:
            raise ValueError("crl_file needs client_ca_file: the list is signed by an authority in it")
        return self


class CertificateRules(_Section):
    """Which names in a client's certificate name a principal."""

    spiffe_trust_domains: list[Domain] = []
    dns_suffixes: list[Domain] = []


class SidecarSettings(_Section):
    """Proxies whose word on their client's certificate is taken, from the header x-forwarded-client-cert."""

    trusted: list[Principal] = []
    unix_socket: bool = False

    @model_validator(mode="after")
    def _trust_somebody(self) -> Self:
        if not self.trusted and not self.unix_socket:
            raise ValueError("name the sidecars in trusted, or set unix_socket when the listener is a socket for one")
        return self


def _require_fetchable(url: str) -> str:
    complaint = "must be an https URL; plain http is for this machine alone"
    parts = split_url(url, complaint)
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError(complaint)
    return url


class IssuerSettings(_Section):
    """An OpenID Connect issuer whose tokens are taken. Its name in the settings begins the names of its principals."""

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_url: Annotated[str, AfterValidator(_require_fetchable)] | None = None
    jwks_file: FilePath | None = None
    principal_claim: str = Field(default="sub", min_length=1)
    authorized_parties: list[Annotated[str, StringConstraints(min_length=1)]] = []
    token_type: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9.+/-]{1,64}$")] | None = None
    algorithms: list[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]] = Field(
        default=["RS256", "PS256", "ES256", "EdDSA"], min_length=1
    )
    max_token_seconds: float = Field(default=86_400.0, gt=0)
    refresh_seconds: float = Field(default=300.0, gt=0, le=86_400)
    outage_seconds: float = Field(default=86_400.0, gt=0, le=604_800)

    @model_validator(mode="after")
    def _have_keys_in_one_place(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("give either jwks_url or jwks_file")
        return self


IssuerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class IdentitySettings(_Section):
    """How callers are known."""

    certificates: CertificateRules = CertificateRules()
    sidecar: SidecarSettings | None = None
    issuers: dict[IssuerName, IssuerSettings] = {}


class AuthorizationSettings(_Section):
    """What the settings allow, before anything is in the registry, and what takes two persons."""

    operators: list[Principal] = []
    second_person: list[Danger] = []
    approval_hours: float = Field(default=24.0, gt=0, le=720)

    @model_validator(mode="after")
    def _guard_who_is_a_second_person(self) -> Self:
        if self.second_person and Danger.GRANT_ROLE not in self.second_person:
            named = ", ".join(one.value for one in self.second_person)
            raise ValueError(
                f"second_person names {named} without grant_role: an operator alone could then make a second principal"
                " and approve by it; add grant_role"
            )
        return self

"""Settings of a key store in AWS KMS (docs/aws.md)."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from ownkey_server.keystores.aws.arn import ArnInvalid, KeyArn
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.settings.fields import Section

_ROLE = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[a-zA-Z0-9_+=,.@/-]{1,512}$"
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2}")


def _require_region(region: str) -> str:
    if _REGION.fullmatch(region) is None:
        raise ValueError("must be a region of AWS, such as eu-west-1")
    return region


def _require_endpoint(url: str) -> str:
    complaint = "must be a URL, such as https://kms.example.com; {region} stands for the region"
    try:
        parts = urlsplit(url.replace("{region}", "eu-west-1"))
        port = parts.port
    except ValueError:
        raise ValueError(complaint) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or "{" in parts.netloc:
        raise ValueError(complaint)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ValueError("needs https: data keys and credentials would cross the network in clear")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a URL of scheme, host, port and path alone")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_key(arn: str) -> str:
    try:
        KeyArn.parse(arn)
    except ArnInvalid as error:
        raise ValueError(str(error)) from None
    return arn


Region = Annotated[str, AfterValidator(_require_region)]
Endpoint = Annotated[str, AfterValidator(_require_endpoint)]
Key = Annotated[str, AfterValidator(_require_key)]


class AwsKmsSettings(Section, BaseModel):
    """Keys in AWS KMS, in customers' accounts or our own."""

    kind: Literal["aws_kms"]
    profile: str | None = Field(default=None, min_length=1, max_length=128)
    role_name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_+=,.@/-]{1,512}$")] | None = None
    external_id_prefix: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_+=,.@:/-]{2,128}$")] = "ownkey"
    session_tags: bool = True
    require_tenant_context: bool = True
    regions: list[Region] = []
    endpoint_url: Endpoint | None = None
    endpoint_urls: dict[Region, Endpoint] = {}
    sts_endpoint_url: Endpoint | None = None
    use_fips: bool = False
    canary_key: Key | None = None
    canary_keys: list[Key] = []
    canary_role: Annotated[str, StringConstraints(pattern=_ROLE)] | None = None
    tenant_concurrency: int = Field(default=8, ge=1, le=256)
    threads: int = Field(default=64, ge=1, le=1024)
    tenant_calls_per_second: float | None = Field(default=None, gt=0)
    connect_timeout_seconds: float = Field(default=1.0, gt=0, le=60)
    read_timeout_seconds: float = Field(default=2.0, gt=0, le=60)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.threads < 2 * self.tenant_concurrency:
            raise ValueError(
                f"threads: must be at least twice tenant_concurrency ({2 * self.tenant_concurrency}), or one tenant"
                f" that hangs would take most of them; got {self.threads}"
            )
        if self.use_fips and (self.endpoint_url or self.endpoint_urls or self.sts_endpoint_url):
            raise ValueError("use_fips: an endpoint that is given is used as it is: name a FIPS one, or drop use_fips")
        regions = [KeyArn.parse(arn).region for arn in self.options().all_canary_keys]
        if twice := sorted({region for region in regions if regions.count(region) > 1}):
            raise ValueError(
                f"canary_keys: one for each region, canary_key included; there are more in {', '.join(twice)}"
            )
        if self.canary_role and not self.role_name:
            raise ValueError("canary_role: it proves that roles can be assumed, and without role_name none is")
        if self.regions and (unused := sorted(self.endpoint_urls.keys() - set(self.regions))):
            raise ValueError(f"endpoint_urls: {', '.join(unused)} is not among regions")
        return self

    def options(self) -> AwsKmsOptions:
        """The section as the key store wants it."""
        return AwsKmsOptions(
            profile=self.profile,
            role_name=self.role_name,
            external_id_prefix=self.external_id_prefix,
            session_tags=self.session_tags,
            require_tenant_context=self.require_tenant_context,
            regions=tuple(self.regions),
            endpoint_url=self.endpoint_url,
            endpoint_urls=self.endpoint_urls,
            sts_endpoint_url=self.sts_endpoint_url,
            use_fips=self.use_fips,
            canary_key=self.canary_key,
            canary_keys=tuple(self.canary_keys),
            canary_role=self.canary_role,
            concurrency=self.tenant_concurrency,
            threads=self.threads,
            calls_per_second=self.tenant_calls_per_second,
            connect_timeout=self.connect_timeout_seconds,
            read_timeout=self.read_timeout_seconds,
        )

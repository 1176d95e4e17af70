"""From a SIP request to the facts that ownkey decides about a call by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ownkey_kamailio.settings import DIRECTIONS, Calls, Settings

# The longest that the contract takes, in bytes of UTF-8.
MAX_CALLEE, MAX_CALLER, MAX_CALL_ID, MAX_NAME = 512, 512, 256, 256

_CALL_ID = re.compile("[!-~]+")
_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Read = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What AuthorizeCall is asked about. Without the call's id, what an answer holds for."""

    tenant: str
    call_id: str
    callee: str
    caller: str = ""
    direction: str = ""
    user: str = ""
    group: str = ""
    stores: tuple[str, ...] = ()
    queue: str = ""
    site: str = ""

    def without_id(self) -> Facts:
        """The facts that an answer holds for."""
        return replace(self, call_id="")


class UnknownTenant(Exception):
    """The call is no tenant's."""


class FactsTooLong(Exception):
    """The request line is longer than ownkey takes."""


def of_request(read: Read, settings: Settings, *, trusted: bool) -> list[Facts]:
    """The facts of a call, for each tenant that it is a call of: one, or two for a call between tenants.

    Args:
        read: Gives a pseudo-variable of Kamailio as text; empty when there is none.
        settings: Whose domains are whose, and what is stored.
        trusted: Whether the request comes from one of our own machines, whose ``X-Ownkey-`` headers count.

    Raises:
        UnknownTenant: No domain of the call is a tenant's.
        FactsTooLong: Whom it goes to cannot be told in full.
    """

    def header(name: str) -> str:
        return read(f"$hdr(X-Ownkey-{name})").strip() if trusted else ""

    callee = read("$ru")
    if len(callee.encode()) > MAX_CALLEE:
        raise FactsTooLong
    call_id = read("$ci")
    if len(call_id) > MAX_CALL_ID or not _CALL_ID.fullmatch(call_id):
        call_id = "sha256:" + hashlib.sha256(call_id.encode()).hexdigest()
    common = Facts(
        tenant="",
        call_id=call_id,
        callee=callee,
        caller=_cut(read("$fu"), MAX_CALLER),
        user=_cut(header("User"), MAX_NAME),
        group=header("Group").lower() if _TENANT.fullmatch(header("Group").lower()) else "",
        queue=_cut(header("Queue") or settings.calls.queues.get(read("$rU"), ""), MAX_NAME),
        site=_cut(header("Site") or settings.calls.site, MAX_NAME),
    )
    stores = tuple(word for word in re.split(r"[,\s]+", header("Stores").lower()) if word)
    said = header("Direction").lower()
    direction = said if said in DIRECTIONS else settings.calls.direction
    return [
        replace(
            common,
            tenant=tenant,
            direction=direction or found,
            stores=stores or _stores(settings.calls, tenant),
        )
        for tenant, found in _tenants(read, settings, header("Tenant").lower()).items()
    ]


def _tenants(read: Read, settings: Settings, named: str) -> dict[str, str]:
    """Each tenant whose call it is, and which way the call goes for it."""
    if named:
        if not _TENANT.fullmatch(named):
            raise UnknownTenant(f"X-Ownkey-Tenant is no tenant's id: {named!r:.80}")
        return {named: ""}
    domains = settings.tenants.domains
    to_domain, from_domain = read("$rd").lower(), read("$fd").lower()
    called, calling = domains.get(to_domain), domains.get(from_domain)
    if called and called == calling:
        return {called: "internal"}
    found = {tenant: way for tenant, way in ((called, "inbound"), (calling, "outbound")) if tenant}
    if not found:
        raise UnknownTenant(f"neither {to_domain!r:.80} nor {from_domain!r:.80} is in tenants.domains")
    return found


def _stores(calls: Calls, tenant: str) -> tuple[str, ...]:
    return calls.tenant_stores.get(tenant, calls.stores)


def _cut(text: str, most: int) -> str:
    """The text as the contract takes it: without NUL, and not too long."""
    return text.replace("\0", "").encode()[:most].decode(errors="ignore")

"""What opening a wrapped data key and wrapping it anew share: who made it, whether the name fits, and its plaintext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ownkey.container import BranchEntryInvalid, EncryptedDataKey, branch_id_of, unwrap_with_branch_key
from ownkey_server.domain import encryption_context
from ownkey_server.domain.assets import Asset
from ownkey_server.domain.errors import CiphertextInvalid, KeyNotFound
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey, Tenant
from ownkey_server.service.audited import Audited
from ownkey_server.service.branch_keys import BranchKeys
from ownkey_server.service.branch_loans import Loan
from ownkey_server.service.key_ring import KeyRing


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped data key whose maker is known.

    Attributes:
        entry: It, as that key made it.
        key: The customer key that opens it, by itself or by a branch key.
        loan: The branch key that wrapped it; None when the key itself did.
    """

    entry: EncryptedDataKey
    key: CustomerKey
    loan: Loan | None


class Opener:
    """Finds the key that made a wrapped data key, and opens it. Policy has been asked by then."""

    def __init__(self, ring: KeyRing, branches: BranchKeys) -> None:
        self._ring = ring
        self._branches = branches

    async def find(
        self,
        tenant: Tenant,
        provider_key: CustomerKey,
        entries: Sequence[EncryptedDataKey],
        named_key: str,
        remaining: float | None,
        use: Audited,
        *,
        background: bool,
    ) -> Wrapped:
        """The first entry that a key of the tenant's or the provider's made, directly or by a branch key.

        Args:
            tenant: Whose content it is.
            provider_key: May have made it too.
            entries: The data key, wrapped under one or more keys.
            named_key: The key name that the wrapped key carries, if any.
            remaining: Seconds that the caller is still waiting, if it said so.
            use: Is told the key.
            background: Whether nobody waits for it, so that it comes after all that somebody waits for.

        Raises:
            KeyNotFound: No key made any entry, or another one than is named.
            KeyStoreError: The branch key cannot be opened; or the key's store is not in the settings any more.
            ServiceImpaired: The database does not answer.
        """
        if any(branch_id_of(entry) for entry in entries):
            lent = await self._branches.to_open(tenant, provider_key, entries, remaining, background=background)
            if lent is not None:
                entry, loan = lent
                use.key = loan.key.name
                tell_branch(use, loan)
                # The name that its wrapped keys have is that of the key under which the branch key was made.
                _require_name(named_key, loan.branch.first_key, tenant.id)
                return Wrapped(entry, loan.key, loan)
        try:
            key, entry = self._ring.find(tenant, provider_key, entries)
        except KeyNotFound:
            lost = self._ring.lost(tenant, provider_key, entries)
            if lost is None:
                raise
            use.key = lost[0].name
            _require_name(named_key, use.key, tenant.id)
            raise lost[1] from None
        use.key = key.name
        _require_name(named_key, key.name, tenant.id)
        return Wrapped(entry, key, None)

    async def open(
        self, found: Wrapped, context: Mapping[str, str], remaining: float | None, use: Audited, *, background: bool
    ) -> SecretBytes:
        """The data key in clear, for the caller to wipe.

        Raises:
            KeyStoreError: The key cannot be used, or the ciphertext is not its.
        """
        if found.loan is not None:
            return _by_branch(found.loan, found.entry, context)
        opened = await self._ring.unwrap(
            found.key, found.entry, context, remaining, background=background, calls=use.calls
        )
        use.replica, use.backend_request_id = opened.replica, opened.value.request_id
        return opened.value.plaintext


def with_bound_group(asset: Asset, context: Mapping[str, str], tenant: Tenant) -> Asset:
    """The asset in the group that is bound to its content: leaving it out gets nobody around that group's rule."""
    group = context.get(encryption_context.GROUP, "")
    return replace(asset, group=group) if not asset.group and group in tenant.groups else asset


def tell_branch(use: Audited, loan: Loan) -> None:
    """Put into the record by which branch key it was, and who opened that."""
    use.cached, use.replica, use.backend_request_id = loan.cached, loan.replica, loan.request_id
    use.detail["branch"] = loan.branch.id
    if loan.beyond:
        use.detail["outage_grace_seconds"] = round(loan.beyond, 3)


def _by_branch(loan: Loan, entry: EncryptedDataKey, context: Mapping[str, str]) -> SecretBytes:
    try:
        return SecretBytes(unwrap_with_branch_key(loan.plaintext.reveal(), entry, context))
    except BranchEntryInvalid as error:
        place = loan.key.primary
        raise CiphertextInvalid(place.name, place.reference, str(error)) from None


def _require_name(named_key: str, made_by: str, tenant: str) -> None:
    if named_key and named_key != made_by:
        raise KeyNotFound(tenant, f"the wrapped key names another key than {made_by!r}, which made its entry")

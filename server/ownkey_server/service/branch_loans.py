"""A branch key for one use, and how branch keys are held for that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ownkey_server.domain.branch_keys import BranchKey
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.domain.tenants import CustomerKey
from ownkey_server.service.branch_leases import Lease


@dataclass(frozen=True, slots=True)
class BranchKeyOptions:
    """How branch keys are held.

    Attributes:
        lease: How long a branch key serves after its key store has agreed.
        capacity: How many are held in clear, and of how many tenants and keys it is remembered which one wraps.
        max_age: A branch key that is older wraps no more: the next use makes a new one.
    """

    lease: timedelta = timedelta(seconds=60)
    capacity: int = 12_000
    max_age: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Borrower:
    """Who waits for a branch key.

    Attributes:
        deadline: When they stop waiting, on the clock of leases; None when they did not say.
        background: Whether nobody waits for what they do, so that it comes after all that somebody waits for.
    """

    deadline: float | None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Loan:
    """A branch key for one use, to be used at once: whoever waits for anything in between asks whether it holds again.

    Attributes:
        key: The key under which it is wrapped at present.
        cached: Whether no key store was asked for this use.
        replica: Where it was opened for this use; empty when cached.
        request_id: By which the key store's log has that; empty when cached.
        beyond: Seconds since the lease ended, when the tenant's grace lets it serve in an outage; else 0.
        seconds: For how many it may serve yet.
    """

    branch: BranchKey
    key: CustomerKey
    plaintext: SecretBytes
    cached: bool
    replica: str
    request_id: str
    beyond: float
    seconds: float
    lease: Lease

"""Keys in AWS KMS, on the fake, each way to it behind a proxy of its own."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.matrix.holders import Block, Holder
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.fault_proxy import Fault, FaultProxy
from support.tls_gate import TlsGate

HOME = "eu-west-1"
# Regions that cells have for themselves, each with its way there.
OTHERS = (
    "eu-west-2", "eu-west-3", "eu-central-1", "eu-north-1", "eu-south-1", "us-east-1", "us-east-2", "us-west-1",
    "us-west-2", "ca-central-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "ap-northeast-2",
    "sa-east-1",
)  # fmt: skip
EVERYBODY = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
WAYS = {
    "cut_off": Fault.REFUSE,
    "reset": Fault.RESET,
    "swallowed": Fault.BLACK_HOLE,
    "dripping": Fault.SLOW_DRIP,
    "gateway_500": Fault.ERROR_500,
    "gateway_throttles": Fault.THROTTLE,
}
ANSWERS = {
    "internal_error": ("KMSInternalException", ""),
    "unavailable": ("KeyUnavailableException", ""),
    "unheard_of": ("SomethingNewException", ""),
    "throttled": ("ThrottlingException", "Rate exceeded"),
    "busy_manager": (
        "KMSInvalidStateException",
        "The external key store proxy rejected the request because of a very high request rate.",
    ),
    "silent_manager": ("KMSInvalidStateException", "KMS cannot communicate with the external key manager."),
    "denied_by_our_policy": (
        "AccessDeniedException",
        "User is not authorized to perform: kms:Decrypt because no identity-based policy allows the kms:Decrypt action",
    ),
    "bad_signature": ("InvalidSignatureException", ""),
    "closed_region": ("RegionDisabledException", ""),
}
MANAGER = {
    "manager_denies": "The external key store proxy denied access to the operation.",
    "manager_disabled": "The external key is not enabled in the external key manager.",
}
ROLE = "arn:aws:iam::{account}:role/ownkey"
CANARY_ROLE = "arn:aws:iam::999988887777:role/ownkey-canary"
TRUST = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["sts:AssumeRole", "sts:TagSession"]}]}
_accounts = itertools.count(200_000_000_001)


class Cloud:
    """AWS KMS, and the ways there.

    Attributes:
        kms: All regions and accounts.
    """

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.kms = stack.enter_context(FakeKms())
        self._stack = stack
        self._folder = folder
        self._canary = self.canary()
        self._ways: dict[str, str] = {}
        self._regions = iter(OTHERS)
        self.kms.create_role(CANARY_ROLE, TRUST)

    def canary(self) -> str:
        """A key of the provider's own."""
        return self.kms.create_key(HOME, account="999988887777")

    def region(self) -> str:
        """One that is a cell's own."""
        return next(self._regions)

    def proxy(self, region: str) -> FaultProxy:
        """The way to a region that is a cell's own."""
        proxy = self._stack.enter_context(FaultProxy(self.kms.url))
        self._ways[region] = proxy.url
        return proxy

    def gate(self, region: str) -> TlsGate:
        """The way to a region by TLS."""
        gate = self._stack.enter_context(TlsGate(self.kms.url, self._folder))
        self._ways[region] = gate.url
        return gate

    @property
    def ca_file(self) -> Path:
        """Who is believed to be AWS."""
        return self._folder / "authority" / "ca.pem"

    @property
    def sections(self) -> str:
        """The key stores that cells share: one that uses keys as ourselves, and one as a role of their holder's."""
        ways = ", ".join(f'{region} = "{url}"' for region, url in self._ways.items())
        return (
            self.section("aws", self._canary, f"endpoint_urls = {{ {ways} }}")
            + self.section("aws-role", self._canary, 'role_name = "ownkey"', f'canary_role = "{CANARY_ROLE}"')
        )  # fmt: skip

    def section(self, name: str, canary: str, *more: str) -> str:
        """A key store's section of the settings."""
        lines = [
            f"[key_stores.{name}]",
            'kind = "aws_kms"',
            "require_tenant_context = false",
            f'endpoint_url = "{self.kms.url}"',
            f'sts_endpoint_url = "{self.kms.url}"',
            "read_timeout_seconds = 0.7",
            f'canary_keys = ["{canary}"]',
            *more,
        ]
        return "\n".join([*lines, ""])


class CloudHolder(Holder):
    """A key in somebody's account."""

    def __init__(self, cell: str, cloud: Cloud, act: str) -> None:
        super().__init__(cell)
        self._cloud, self._kms = cloud, cloud.kms
        self.store = "aws"
        self._canary, self.credentials = "", ""
        self._proxies: list[FaultProxy] = []
        self._gate: TlsGate | None = None
        region, account = HOME, ACCOUNT
        if act in WAYS or act.startswith("of_two"):
            region = cloud.region()
            self._proxies.append(cloud.proxy(region))
        elif act == "false_certificate":
            region = cloud.region()
            self._gate = cloud.gate(region)
        elif act == "denied_without_canary":
            region = cloud.region()
        elif act.startswith("role"):
            self.store, account = "aws-role", str(next(_accounts))
            self._role = ROLE.format(account=account)
            self._kms.create_role(self._role, TRUST)
        elif act.startswith("own"):
            self._own_store(cell, cloud)
        imported = act.startswith("material")
        two = act.startswith("of_two")
        self.arn = self._kms.create_key(
            region, account=account, origin="EXTERNAL" if imported else "AWS_KMS", multi_region=two
        )
        if imported:
            self._kms.import_material(self.arn, valid_to=time.time() + 90 * 86_400)
        self.places = [self.arn]
        if two:
            other = cloud.region()
            self._proxies.append(cloud.proxy(other))
            self.places.append(self._kms.replicate(self.arn, other))

    def _own_store(self, cell: str, cloud: Cloud) -> None:
        """Credentials and a canary that are this cell's alone, for what is wrong with ours is wrong for every key."""
        self.store, self._canary = cell, cloud.canary()
        self._principal = f"arn:aws:iam::999988887777:user/{cell}"
        key_id, secret = self._kms.user(self._principal)
        self._identity = self._kms.identity(key_id)
        self.section = cloud.section(cell, self._canary, f'profile = "{cell}"')
        self.credentials = f"[{cell}]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"

    def block(self, act: str) -> Block:
        if act in WAYS:
            return self._way(WAYS[act], *self._proxies)
        if act in ANSWERS:
            return self._answers(*ANSWERS[act], keys=[self.arn])
        if act in MANAGER:
            return self._manager_says(MANAGER[act])
        return super().block(act)

    @contextlib.contextmanager
    def _way(self, fault: Fault, *proxies: FaultProxy) -> Iterator[None]:
        for proxy in proxies:
            proxy.fault = fault
        yield
        for proxy in proxies:
            proxy.fault = None

    @contextlib.contextmanager
    def _answers(self, code: str, message: str = "", *, keys: list[str], operation: str = "*") -> Iterator[None]:
        for key in keys:
            self._kms.fail(operation, code, message, key=key)
        yield
        for key in keys:
            self._kms.heal(key)

    @contextlib.contextmanager
    def _manager_says(self, message: str) -> Iterator[None]:
        self._kms.xks(self.arn, message)
        yield
        self._kms.xks(self.arn, None)

    @contextlib.contextmanager
    def _policy(self, **statement: Any) -> Iterator[None]:
        denied = {"Effect": "Deny", "Principal": {"AWS": PROVIDER}, "Resource": "*"} | statement
        self._kms.set_policy(self.arn, {"Statement": [EVERYBODY, denied]})
        yield
        self._kms.set_policy(self.arn, None)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        self._kms.disable(self.arn)
        yield
        self._kms.enable(self.arn)

    disabled_while_down = of_two_first_disabled = disabled

    @contextlib.contextmanager
    def deletion_scheduled(self) -> Iterator[None]:
        self._kms.schedule_deletion(self.arn)
        yield
        self._kms.cancel_deletion(self.arn)
        self._kms.enable(self.arn)

    @contextlib.contextmanager
    def deleted(self) -> Iterator[None]:
        """No holder can undo this; the matrix does."""
        key = self._kms.key(self.arn)
        self._kms.delete(self.arn)
        yield
        self._kms.keys[key.region, key.key_id] = key

    deleted_while_down = deleted

    def denied(self) -> Block:
        return self._policy(Action="kms:*")

    denied_while_down = denied_without_canary = denied

    def decrypt_denied(self) -> Block:
        return self._policy(Action="kms:Decrypt")

    def wrapping_denied(self) -> Block:
        return self._policy(Action="kms:GenerateDataKey*")

    def class_denied(self) -> Block:
        recordings = {"StringEquals": {"kms:EncryptionContext:ownkey:asset-class": "phone_recording"}}
        return self._policy(Action="kms:*", Condition=recordings)

    @contextlib.contextmanager
    def material_deleted(self) -> Iterator[None]:
        self._kms.delete_material(self.arn)
        yield
        self._kms.import_material(self.arn)

    @contextlib.contextmanager
    def custom_store_gone(self) -> Iterator[None]:
        self._kms.set_state(self.arn, "Unavailable")
        yield
        self._kms.enable(self.arn)

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        self._kms.hang(self.arn)
        yield
        self._kms.resume(self.arn)

    black_hole_while_down = black_hole

    def decrypt_fails(self) -> Block:
        return self._answers("KMSInternalException", keys=[self.arn], operation="Decrypt")

    @contextlib.contextmanager
    def false_certificate(self) -> Iterator[None]:
        assert self._gate is not None
        self._gate.show(believed=False)
        yield
        self._gate.show(believed=True)

    # What is wrong with us

    @contextlib.contextmanager
    def own_credentials_expired(self) -> Iterator[None]:
        self._identity.expires = 0.0
        yield
        self._identity.expires = float("inf")

    def own_rights_lost(self) -> Block:
        """A message that names no policy, as of a key whose holder denies it; and so for our own canary."""
        return self._answers("AccessDeniedException", "not authorized", keys=[self.arn, self._canary])

    @contextlib.contextmanager
    def own_canary_silent(self) -> Iterator[None]:
        self._kms.hang(self._canary)
        with self._answers("AccessDeniedException", "not authorized", keys=[self.arn]):
            yield
        self._kms.resume(self._canary)

    # Roles

    @contextlib.contextmanager
    def role_untrusting(self) -> Iterator[None]:
        """Sessions go on for an hour at most; here they end at once."""
        self._kms.set_trust(self._role, {"Statement": []})
        self._kms.expire_sessions()
        yield
        self._kms.set_trust(self._role, TRUST)

    @contextlib.contextmanager
    def role_deleted(self) -> Iterator[None]:
        self._kms.delete_role(self._role)
        self._kms.expire_sessions()
        yield
        self._kms.create_role(self._role, TRUST)

    @contextlib.contextmanager
    def role_sessions_ended(self) -> Iterator[None]:
        self._kms.expire_sessions()
        yield

    # Two places

    def of_two_first_gone(self) -> Block:
        return self._way(Fault.REFUSE, self._proxies[0])

    def of_two_second_gone(self) -> Block:
        return self._way(Fault.REFUSE, self._proxies[1])

    def of_two_both_gone(self) -> Block:
        return self._way(Fault.REFUSE, *self._proxies)

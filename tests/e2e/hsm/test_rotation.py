"""A key is rotated under load: no call fails, the old one opens until it is retired, and Rewrap moves what it made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ownkey.admin import AdminClient
from ownkey.v1 import key_service_pb2 as pb
from ownkey.v1 import key_service_pb2_grpc
from ownkey.v1.policy_pb2 import Policy
from support import server
from support.hsm_operator import Operator
from support.hsm_pair import seconds_until, steady_load
from support.rpc import Failure, asset
from support.server import ServerProcess

V1, V2 = "tenants/acme/keys/main", "tenants/acme/keys/main-2"
TENANTS = """
provider_key = { key_store = "embedded", reference = "provider" }

[[tenants]]
id = "acme"
enrolled_at = 2020-01-01T00:00:00Z

[[tenants.keys]]
id = "main"
key_store = "hsm"
reference = "acme-main/v1"

[tenants.policy]
default = "key:main"
"""


@dataclass(frozen=True)
class Service:
    """The service that uses the token, and its callers."""

    server: ServerProcess
    stub: key_service_pb2_grpc.KeyServiceStub
    admin: AdminClient
    check_value: str

    def make(self) -> pb.GenerateDataKeyResponse:
        return self.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True), timeout=20)

    def open(self, wrapped_key: bytes, made: pb.GenerateDataKeyResponse) -> bytes:
        request = pb.UnwrapRequest(asset=asset(), wrapped_key=wrapped_key, encryption_context=made.encryption_context)
        return self.stub.Unwrap(request, timeout=20).plaintext

    def reason(self, wrapped_key: bytes, made: pb.GenerateDataKeyResponse) -> str:
        """Why it does not open."""
        with pytest.raises(grpc.RpcError) as caught:
            self.open(wrapped_key, made)
        return Failure.of(caught.value).reason


@pytest.fixture
def service(two: Operator, tmp_path: Path) -> Iterator[Service]:
    made = two.done("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    pin = two.softhsm.folder / f"{two.token}.pin"
    extra = (
        f'\n[key_stores.hsm]\nkind = "pkcs11"\nmodule = "{two.softhsm.module}"\n'
        f'token_label = "{two.token}"\npin = "file:{pin}"\n'
    )
    with (
        server.process(tmp_path / "server", tenants=TENANTS, extra=extra) as running,
        grpc.insecure_channel(running.address) as channel,
        AdminClient(running.address) as admin,
    ):
        stub = key_service_pb2_grpc.KeyServiceStub(channel)
        yield Service(running, stub, admin, made["check_values"]["aes-ecb"])


def test_a_rotation_under_load_costs_no_call_and_ends_the_old_key_for_its_reason(
    two: Operator, service: Service
) -> None:
    by = (*two.at(), *two.by("alice", "bob"))
    old = service.make()
    with steady_load(service.server.address, 20.0, 10.0) as load:
        two.done("rotate", "acme-main", *by)
        service.admin.enrol_key("acme", "main-2", "hsm", "acme-main/v2")
        etag = service.admin.get_tenant("acme").etag
        service.admin.create_policy_version("acme", Policy(default_use="key:main-2"), activate_with=etag)
        seconds_until(lambda: service.make().key == V2)
        service.admin.retire_key("acme", "main", service.admin.get_key("acme", "main").etag)
        two.done("close", "acme-main/v1", "--confirm", f"acme-main/v1:{service.check_value}", *by)
        served = len(load.served)
        seconds_until(lambda: len(load.served) > served + 40)
        # The load opens what the old key wrapped, all the time.
    assert not load.failed, str(load)
    assert load.wrong == 0
    assert service.open(old.wrapped_key, old) == old.plaintext
    moved = service.stub.Rewrap(
        pb.RewrapRequest(asset=asset(), wrapped_key=old.wrapped_key, encryption_context=old.encryption_context),
        timeout=20,
    )
    assert service.open(moved.wrapped_key, old) == old.plaintext

    two.done("retire", "acme-main/v1", "--confirm", f"acme-main/v1:{service.check_value}", *by)
    assert service.reason(old.wrapped_key, old) == "KEY_REVOKED"
    assert service.open(moved.wrapped_key, old) == old.plaintext
    two.done("retire", "acme-main/v1", "--destroy", "--confirm", f"acme-main/v1:{service.check_value}", *by)
    assert service.reason(old.wrapped_key, old) == "KEY_REVOKED"
    assert service.open(moved.wrapped_key, old) == old.plaintext
    assert service.make().key == V2

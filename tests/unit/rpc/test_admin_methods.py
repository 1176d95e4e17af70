"""Nothing of AdminService is left out: not by the servicer, not by the SDK, and not by the tests."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ownkey import AdminClient
from ownkey.v1 import admin_service_pb2
from ownkey_server.rpc.admin.servicer import AdminServicer
from support.requests import request_class

METHODS = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].methods
NAMES = [method.name for method in METHODS]
CHANGES = [name for name in NAMES if not re.match(r"Get|List|Export|Simulate|Preview", name)]
END_TO_END = Path(__file__).resolve().parents[2] / "e2e"

# As many as there may be fit into one answer.
UNPAGED = ("ListKeys", "ListNotificationChannels")


def request_fields(name: str) -> dict[str, object]:
    return dict(request_class(name).DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_a_servicer_a_call_of_the_sdk_and_a_test_through_grpc(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(AdminServicer, name))
    assert callable(getattr(AdminClient, re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()))
    tests = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted([*END_TO_END.glob("rpc/test_admin*.py"), *END_TO_END.glob("access/test_second_person.py")])
    )
    assert re.search(rf'(?:admin|first|second)\(\s*"{name}"|\(\s*"{name}", "[a-z_]+", \{{', tests), (
        f"no test sees {name} succeed"
    )


def test_the_servicer_has_nothing_that_the_contract_lacks() -> None:
    assert {name for name in dir(AdminServicer) if name[0].isupper()} == set(NAMES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_says_who_and_why_and_what_is_there_is_changed_by_its_etag(name: str) -> None:
    fields = request_fields(name)
    assert "note" in fields
    adds = re.match(r"Create|Enrol|Approve|Withdraw|Rotate|Rewrap|Revoke|Restore|Test|Replay", name)
    assert ("etag" in fields) == (not adds or name == "CreatePolicyVersion")
    assert (
        "reason" in inspect.signature(getattr(AdminClient, re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower())).parameters
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("List") and name not in UNPAGED])
def test_a_list_comes_in_pages(name: str) -> None:
    assert {"page_size", "page_token"} <= request_fields(name).keys()

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.v1 import call_pb2
from ownkey_kamailio import facts
from ownkey_kamailio.facts import Facts, FactsTooLong, UnknownTenant, of_request
from ownkey_kamailio.settings import Calls, Emergency, NoAnswer, Service, Settings, Tenants
from ownkey_server.rpc.contract import RequestParser, load_contract

SETTINGS = Settings(
    Service(),
    NoAnswer(),
    Tenants({"acme.example": "acme", "globex.example": "globex"}),
    Calls(("phone_recording",), {"globex": ("phone_voicemail",)}, "", {"+15551": "support"}),
    Emergency(),
)


def request(**fields: str) -> dict[str, str]:
    variables = {"$ru": "sip:+15551@acme.example", "$rU": "+15551", "$rd": "acme.example", "$ci": "call-1"}
    variables |= {"$fu": "sip:a@x.example", "$fd": "x.example"}
    return variables | {
        f"${name}" if len(name) == 2 else f"$hdr(X-Ownkey-{name})": text for name, text in fields.items()
    }


def told(trusted: bool = False, **fields: str) -> list[Facts]:
    return of_request(lambda name: request(**fields).get(name, ""), SETTINGS, trusted=trusted)


def test_the_facts_of_a_call() -> None:
    assert told() == [
        Facts(
            "acme",
            "call-1",
            "sip:+15551@acme.example",
            "sip:a@x.example",
            "inbound",
            stores=("phone_recording",),
            queue="support",
        )
    ]


def test_tenants_and_directions_by_domain() -> None:
    assert [(one.tenant, one.direction) for one in told(fd="ACME.example")] == [("acme", "internal")]
    assert [(one.tenant, one.direction) for one in told(rd="else.example", fd="acme.example")] == [("acme", "outbound")]
    both = told(fd="globex.example")
    assert [(one.tenant, one.direction) for one in both] == [("acme", "inbound"), ("globex", "outbound")]
    assert [one.stores for one in both] == [("phone_recording",), ("phone_voicemail",)]
    with pytest.raises(UnknownTenant):
        told(rd="else.example")


def test_only_a_trusted_machine_says_more() -> None:
    said = {
        "Tenant": "Initech",
        "Stores": "phone_mms, phone_voicemail",
        "Direction": "Outbound",
        "Queue": "sales",
        "User": "ann",
        "Group": "finance",
    }
    (one,) = told(trusted=True, **said)
    assert (one.tenant, one.direction, one.queue, one.user, one.group) == (
        "initech",
        "outbound",
        "sales",
        "ann",
        "finance",
    )
    assert one.stores == ("phone_mms", "phone_voicemail")
    assert told(trusted=False, **said) == told()
    with pytest.raises(UnknownTenant):
        told(trusted=True, Tenant="no tenant")


def test_what_is_too_long_for_the_contract_is_never_cut_where_it_decides() -> None:
    with pytest.raises(FactsTooLong):
        told(ru="sip:" + "é" * 300)
    (one,) = told(ci="x" * 300, fu="sip:" + "é" * 300)
    assert one.call_id.startswith("sha256:")
    assert len(one.caller.encode()) <= facts.MAX_CALLER


TEXT = st.text(max_size=600)
PARSER = RequestParser(load_contract())


@given(ru=TEXT.filter(bool), ci=TEXT, fu=TEXT, User=TEXT, Group=TEXT, Queue=TEXT, Direction=TEXT, Site=TEXT)
def test_whatever_comes_the_contract_takes_the_facts(ru: str, **fields: str) -> None:
    try:
        (one,) = told(trusted=True, ru=ru, **fields)
    except (FactsTooLong, UnknownTenant):
        return
    asked = call_pb2.AuthorizeCallRequest(
        tenant=one.tenant,
        call_id=one.call_id,
        callee=one.callee,
        caller=one.caller,
        user=one.user,
        group=one.group,
        queue=one.queue,
        site=one.site,
    )
    PARSER.parse(asked.SerializeToString(), call_pb2.AuthorizeCallRequest)


def test_the_delivered_settings_are_the_defaults() -> None:
    from ownkey_kamailio import settings

    delivered = settings.load(Path(__file__).parents[3] / "clients" / "kamailio" / "gate.toml")
    assert delivered.service == Service()
    assert delivered.no_answer == NoAnswer()
    assert delivered.emergency == Emergency()

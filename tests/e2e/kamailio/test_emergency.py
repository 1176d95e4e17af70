"""No emergency call is refused, whatever is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownkey.emergency import COUNTRIES, is_emergency
from ownkey_server.storage import upgrade
from ownkey_server.storage.database import Database
from support import emergency_calls, kamailio, server
from support import postgres as postgres_server
from support.kamailio import Kamailio
from support.telephones import Caller

UNREACHABLE = "127.0.0.1:9"
PREFIXES = ("0", "8", "9")
OTHER = "sip:+15551234567@acme.example"
ON_ONE_PROXY = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kamailio]:
    """A gate whose settings cannot be read: its script decides nothing."""
    folder = tmp_path_factory.mktemp("broken") / "ownkey"
    with kamailio.process(folder, UNREACHABLE, gate="[service\n") as running:
        yield running


@pytest.fixture(scope="module")
def caller(broken: Kamailio) -> Iterator[Caller]:
    with broken.caller() as one:
        yield one


@ON_ONE_PROXY
@given(uri=emergency_calls.request_uris())
def test_a_broken_script_refuses_no_emergency_call_in_any_way_of_writing(
    broken: Kamailio, caller: Caller, uri: str
) -> None:
    assert is_emergency(uri, (), outside_line_prefixes=PREFIXES)
    assert caller.invite(uri).status == broken.callee.ANSWER


# What may stand in the user part of a URI, with much of what numbers are made of.
DIALLED = st.text(st.sampled_from("0011122999+*#,pwx.-()aex;%319"), min_size=1, max_size=9)


@ON_ONE_PROXY
@given(user=DIALLED)
def test_whatever_is_dialled_a_broken_script_lets_through_what_the_sdk_calls_an_emergency(
    broken: Kamailio, caller: Caller, user: str
) -> None:
    uri = f"sip:{user}@acme.example"
    answer = caller.invite(uri)
    if is_emergency(uri, (), outside_line_prefixes=PREFIXES):
        assert answer.status == broken.callee.ANSWER


def test_every_number_of_every_country_passes_a_broken_script(broken: Kamailio, caller: Caller) -> None:
    assert set(emergency_calls.BY_COUNTRY) == COUNTRIES
    refused = [
        uri
        for number in emergency_calls.NUMBERS
        for uri in (f"sip:{number}@acme.example", f"tel:{number}", f"sip:0,{number}@acme.example;user=phone")
        if caller.invite(uri).status != broken.callee.ANSWER
    ]
    assert refused == []


@pytest.mark.parametrize(
    "user",
    [
        "+15551234567",
        "bob",
        "12345",
        "5559110",
        "4911",
        "+4930911112",
        "911911911911",
        "bob18",
        "anna.08",
        "room-110",
        "112.bob",
        "bob:911",
        "*67bob911",
        "9,bob911",
        "bob%31%31%30",
    ],
)
def test_a_broken_script_refuses_other_calls(broken: Kamailio, caller: Caller, user: str) -> None:
    uri = f"sip:{user}@acme.example"
    assert not is_emergency(uri, (), outside_line_prefixes=PREFIXES)
    answer = caller.invite(uri)
    assert answer.status == 503
    assert answer.get("Retry-After") == "10"


def break_nothing(folder: Path) -> None:
    """The address alone leads nowhere."""


def lose_the_settings(folder: Path) -> None:
    (folder / "gate.toml").unlink()


def lose_the_sdk(folder: Path) -> None:
    settings_file = folder / "gate.toml"
    text = settings_file.read_text(encoding="utf-8").replace(str(kamailio.VENV), "/nonexistent")
    settings_file.write_text(text, encoding="utf-8")


def lose_the_package(folder: Path) -> None:
    (folder / "ownkey_kamailio" / "settings.py").unlink()


def exit_at_import(folder: Path) -> None:
    (folder / "ownkey_kamailio" / "settings.py").write_text("import sys\nsys.exit(1)\n", encoding="utf-8")


def fail_in_each_call(folder: Path) -> None:
    (folder / "ownkey_kamailio" / "facts.py").write_text("of_request = None\n", encoding="utf-8")


def fail_in_each_worker(folder: Path) -> None:
    workers = folder / "ownkey_kamailio" / "workers.py"
    workers.write_text(workers.read_text(encoding="utf-8").replace("def enter", "def left"), encoding="utf-8")


@pytest.mark.parametrize(
    "harm",
    [
        break_nothing,
        lose_the_settings,
        lose_the_sdk,
        lose_the_package,
        exit_at_import,
        fail_in_each_call,
        fail_in_each_worker,
    ],
)
def test_no_mishap_of_the_script_refuses_an_emergency_call(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    with kamailio.process(tmp_path / "ownkey", UNREACHABLE, harm=harm) as proxy, proxy.caller() as one:
        for uri in ("sip:911@acme.example", "tel:+49112", "urn:service:sos", "sip:9%31%31@x", "sip:%EF%BC%91%31%32@x"):
            assert one.invite(uri).status == proxy.callee.ANSWER, uri
        assert one.invite(OTHER).status == 503


def test_an_emergency_call_connects_while_the_database_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server.server() as cluster:
        url = cluster.new_database()
        database = Database(url)
        upgrade.upgrade(database)
        database.close()
        monkeypatch.setenv("OWNKEY_STORAGE__URL", url)
        with (
            server.process(tmp_path / "server") as running,
            kamailio.process(tmp_path / "ownkey", running.address) as proxy,
            proxy.caller() as one,
        ):
            cluster.kill()
            for uri in (
                "sip:911@acme.example",
                "urn:service:sos.police",
                "sip:9,112@acme.example",
                "sip:٩١١@acme.example",
            ):
                assert one.invite(uri).status == proxy.callee.ANSWER, uri
            # So that the server ends in good time.
            cluster.start()

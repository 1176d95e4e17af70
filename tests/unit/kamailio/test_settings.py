from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ownkey.emergency import COUNTRIES, is_emergency
from ownkey_kamailio import __main__ as commands
from ownkey_kamailio import emergency_routes, settings
from ownkey_kamailio.settings import Emergency, SettingsError

CLIENT = Path(__file__).parents[3] / "clients" / "kamailio"


def load(folder: Path, text: str) -> settings.Settings:
    path = folder / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return settings.load(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[service", "is not TOML"),
        ("[service]\nadress = 'x:1'", "service.adress is no setting"),
        ("[servic]\n", "servic is no setting"),
        ("[service]\naddress = 7400", "service.address must be a str"),
        ("[service]\naddress = 'keys'", "service.address must be HOST:PORT"),
        ("[service]\naddress = 'keys.example:7400'", "service.address is on another machine"),
        ("[service]\ntimeout_ms = 0", "service.timeout_ms must be from 10 to 5000"),
        ("[service]\ntimeout_ms = true", "service.timeout_ms must be a int or float"),
        ("[no_answer]\nbehaviour = 'pass'", "no_answer.behaviour must be one of refuse, allow_no_recording, allow"),
        ("[tenants.domains]\n'a.example' = 'Not A Tenant'", "tenants.domains.a.example must be a tenant's id"),
        ("[tenants]\ndomains_file = 'absent'", "tenants.domains_file"),
        ("[calls]\nstores = 'phone_recording'", "calls.stores must be a list"),
        ("[emergency]\ncountries = ['Germany']", "emergency.countries must be a list of ISO 3166 codes"),
        ("[calls]\ndirection = 'up'", "calls.direction must be one of inbound, outbound, internal"),
    ],
)
def test_a_mistake_is_told_with_the_setting_s_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        load(tmp_path, text)


def test_domains_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "domains").write_text("# ours\nA.example acme\n\nb.example  globex # theirs\n", encoding="utf-8")
    loaded = load(tmp_path, "[tenants]\ndomains_file = 'domains'\n[tenants.domains]\n'b.example' = 'initech'\n")
    assert loaded.tenants.domains == {"a.example": "acme", "b.example": "initech"}
    (tmp_path / "domains").write_text("a.example\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 1"):
        load(tmp_path, "[tenants]\ndomains_file = 'domains'")


def test_check_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gate.toml"
    for text, code, told in (
        ("[calls]\nstores = ['phone_record']", 2, "calls.stores has 'phone_record', which is none of"),
        (f"[python]\nvenv = '{tmp_path}'", 2, f"has no packages for python3.{sys.version_info.minor}"),
        ("[service]\naddress = '127.0.0.1:9'\n[tenants.domains]\n'a.example' = 'acme'", 3, "gave no decision"),
        ("", 0, "name one with --tenant"),
    ):
        path.write_text(text, encoding="utf-8")
        assert commands.main(["--settings", str(path), "check"]) == code
        assert told in capsys.readouterr().err


def test_each_secret_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    found = set()
    for _ in range(3):
        assert commands.main(["secret"]) == 0
        (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("#!define")]
        assert re.fullmatch('#!define OWNKEY_SECRET "[0-9a-f]{64}"', line)
        found.add(line)
    assert len(found) == 3


def test_the_delivered_emergency_numbers_are_those_of_the_sdk() -> None:
    """When it fails: `python -m ownkey_kamailio emergency > clients/kamailio/emergency.cfg`, without python.venv."""
    assert (CLIENT / "emergency.cfg").read_text(encoding="utf-8") == emergency_routes.text(Emergency())


@pytest.mark.parametrize("country", sorted(COUNTRIES))
def test_the_generated_numbers_of_a_country_are_those_of_the_sdk(country: str) -> None:
    emergency = Emergency((country,), ("7777",), ("9",))
    here, abroad = (
        re.compile(pattern)
        for pattern in (emergency_routes.national(emergency), emergency_routes.international(emergency))
    )
    numbers = [str(number).zfill(width) for width in (2, 3) for number in range(10**width)]
    for number in (*numbers, "7777", "97777", "1911", "91911", "9112", "+49112", "0049110", "900353999", "5551234"):
        expected = is_emergency(number, (country,), own_numbers=("7777",), outside_line_prefixes=("9",))
        assert bool(here.fullmatch(number) or abroad.fullmatch(number)) == expected, number

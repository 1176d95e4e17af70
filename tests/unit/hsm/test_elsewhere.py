"""What a custodian elsewhere is shown is what they sign, whoever made the request; and no answer is taken half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.main import Shared
from ownkey_server.commands.hsm.confirming import CeremonyChoice
from ownkey_server.commands.hsm.elsewhere import shown
from ownkey_server.domain.ceremonies import Action, Phase, Record
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.hsm import custodians
from ownkey_server.hsm.custodians import Custodian
from ownkey_server.hsm.elsewhere import CustodianElsewhere, Request, answer_path, following
from ownkey_server.hsm.errors import HsmError

NOW = datetime(2026, 11, 28, tzinfo=UTC)
TOKEN = {"label": "ownkey", "serial": "0815"}
INTENT = Record(Action.DESTROY, Phase.BEGUN, NOW, 0, "mallory", (TOKEN,), "acme-main/v1")
OUTCOME = replace(INTENT, phase=Phase.DONE, ceremony=2)


def request(record: Record = INTENT, number: int = 2, **detail: Any) -> Request:
    return Request("bob", number, bytes(32), replace(record, detail=detail))


@pytest.fixture
def bob(tmp_path: Path) -> Custodian:
    return custodians.make("bob", tmp_path / "bob.key", SecretBytes(b"open sesame of bob"))


@pytest.mark.parametrize("name", ["to be done", "key", "token", "run by", "time", "in the log"])
def test_no_detail_stands_in_for_what_is_signed(name: str) -> None:
    """Whoever makes a request chooses the names in its detail."""
    plain = shown(request())
    forged = shown(request(**{name: "keygen of harmless/v1"}))
    assert {title: forged.get(title) for title in plain} == dict(plain)
    assert "keygen of harmless/v1" in forged.values(), "and what is signed is shown"


@pytest.mark.parametrize("text", ["\x1b[2J", "\r", "\n", "\u2028", "\u202e", "\x07"])
@pytest.mark.parametrize("in_name", [True, False])
def test_no_detail_moves_the_cursor_or_begins_a_line(
    text: str, in_name: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    detail: Mapping[str, Any] = {f"a{text}key  harmless/v1": "b"} if in_name else {"a": f"b{text}key  harmless/v1"}
    said = shown(request(**detail))
    CeremonyChoice.show(Shared(), said)
    printed = "".join(capsys.readouterr())
    assert len(printed.splitlines()) == len(said)
    assert not [c for c in printed if not (c.isprintable() or c == "\n")]


def test_all_of_the_record_before_it_is_shown() -> None:
    """A few digits could be those of another record, made for the purpose."""
    assert bytes(32).hex() in shown(request())["in the log"]


@pytest.mark.parametrize("change", [{"action": Action.CLOSE}, {"key": "acme-other/v1"}, {"tokens": ({"label": "x"},)}])
def test_what_came_of_another_ceremony_is_not_what_came_of_this(tmp_path: Path, change: dict[str, Any]) -> None:
    asked = tmp_path / "2-begun-bob-00.request.json"
    other = tmp_path / "3-done-bob-01.request.json"
    asked.write_bytes(request().to_bytes())
    other.write_bytes(request(replace(OUTCOME, **change), 3).to_bytes())
    assert following(request(), asked) is None
    other.write_bytes(request(OUTCOME, 3).to_bytes())
    found = following(request(), asked)
    assert found is not None
    assert found[0] == other


def test_a_file_that_is_no_request_does_not_end_the_wait(tmp_path: Path) -> None:
    asked = tmp_path / "2-begun-bob-00.request.json"
    (tmp_path / "3-done-bob-01.request.json").write_bytes(b"{")
    assert following(request(), asked) is None


def test_an_answer_that_is_being_copied_is_waited_for(tmp_path: Path, bob: Custodian) -> None:
    """A stick is filled slowly: the file is there before all of it is."""
    looks: list[float] = []

    def told(path: Path) -> None:
        answer.append((answer_path(path), Request.read(path).confirmed(bob)))
        answer[0][0].write_bytes(answer[0][1][:20])

    def slept(seconds: float) -> None:
        looks.append(seconds)
        answer[0][0].write_bytes(answer[0][1][: -1 if len(looks) == 1 else None])

    answer: list[tuple[Path, bytes]] = []
    elsewhere = CustodianElsewhere("bob", bob.public_key, tmp_path, 60, told, sleep=slept)
    with elsewhere.asked(INTENT, bytes(32), 2) as wait:
        assert wait().custodian == "bob"
    assert len(looks) == 2


def test_an_answer_that_is_never_whole_ends_in_time(tmp_path: Path, bob: Custodian) -> None:
    def told(path: Path) -> None:
        answer_path(path).write_bytes(Request.read(path).confirmed(bob)[:20])

    def slept(seconds: float) -> None:
        now.append(now[-1] + seconds)

    now = [0.0]
    elsewhere = CustodianElsewhere("bob", bob.public_key, tmp_path, 60, told, lambda: now[-1], slept)
    with elsewhere.asked(INTENT, bytes(32), 2) as wait, pytest.raises(HsmError, match="is not written to its end"):
        wait()

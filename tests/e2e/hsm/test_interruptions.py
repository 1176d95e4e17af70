"""Ceremonies that are killed: what is half made is used by nobody, told by the list, and ended by `settle`."""

from __future__ import annotations

import pytest

from support.hsm_operator import Operator

BEFORE_RECORD, AFTER_RECORD = "ownkey_server.hsm.making.prove", "ownkey_server.hsm.making.Publish"
USES_IT = """
import asyncio, sys
from pathlib import Path
from ownkey_server import settings
from ownkey_server.composition.core import open_key_stores
async def main():
    store = open_key_stores(settings.load(Path(sys.argv[1])))['hsm']
    for reference in ("acme-main/v1", "~pending~acme-main/v1"):
        print((await store.describe(reference, 10)).state.name)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.parametrize(("place", "published"), [(BEFORE_RECORD, False), (AFTER_RECORD, True)])
def test_a_key_counts_when_it_is_on_record_and_not_before(two: Operator, place: str, published: bool) -> None:
    two.killed_at(place, "keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    key = two.keys()["acme-main/v1"]
    assert (key["use"], "half made" in key["remarks"][0]) == ("pending", True)
    config = two.settings({"hsm": two.token})
    assert two.softhsm.run_python(USES_IT, str(config)).split()[0] == "MISCONFIGURED"
    again = two.run("keygen", "acme-main", *two.at(), *two.by("alice", "bob"))
    assert (again.code, "half made" in again.error["error"]) == (10, True)
    settled = two.done("settle", *two.at())
    assert (settled["published"], settled["discarded"]) == (
        (["acme-main/v1"], []) if published else ([], ["acme-main/v1"])
    )
    assert {name: key["use"] for name, key in two.keys().items()} == ({"acme-main/v1": "active"} if published else {})
    verified = two.done("ceremony", "verify", "--log", str(two.log))
    assert verified["sound"]
    assert bool(verified["unfinished"]) is not published


def test_a_pending_key_that_is_not_the_one_on_record_is_destroyed(alone: Operator) -> None:
    alone.killed_at(AFTER_RECORD, "keygen", "acme-main", *alone.at())
    alone.softhsm.destroy_key(alone.token, "~pending~acme-main/v1")
    alone.softhsm.make_key(alone.token, "~pending~acme-main/v1", "SENSITIVE", "ENCRYPT", "DECRYPT")
    assert alone.done("settle", *alone.at())["discarded"] == ["acme-main/v1"]
    assert alone.keys() == {}


def test_a_line_that_was_cut_off_is_told_and_does_not_stop_the_next_ceremony(alone: Operator) -> None:
    alone.done("keygen", "acme-main", *alone.at())
    whole = alone.log.read_bytes()
    alone.log.write_bytes(whole + b'{"action":"keyg')
    verified = alone.done("ceremony", "verify", "--log", str(alone.log))
    assert (verified["sound"], "cut off" in verified["notes"][0]) == (True, True)
    alone.done("rotate", "acme-main", *alone.at())
    assert alone.log.read_bytes().startswith(whole)
    begun = alone.records()[-2]
    assert begun["detail"]["cut_off_before"] == 15
    assert alone.done("ceremony", "verify", "--log", str(alone.log))["sound"]


def test_a_module_that_crashes_or_hangs_ends_in_an_error(alone: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process with the module is killed or stopped, as a crash or a hang of it would look from outside."""
    import os
    import signal

    from ownkey_server.hsm import making, processes

    ask = processes.ModuleProcess.ask

    def crashing(self: processes.ModuleProcess, operation: object, seconds: float = 1.0) -> object:
        if isinstance(operation, making.Generate):
            os.kill(self.pid, number)
            seconds = 0.3
        return ask(self, operation, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(processes.ModuleProcess, "ask", crashing)
    number = signal.SIGSEGV
    for number, words in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGSTOP, "has not come back")):  # noqa: B007
        ended = alone.run("keygen", "acme-main", *alone.at())
        assert (ended.code, words in ended.error["error"]) == (5, True)
    monkeypatch.undo()
    assert [record["phase"] for record in alone.records()[1:]] == ["begun", "failed"] * 2
    assert alone.keys() == {}


def test_ctrl_c_undoes_what_was_half_done(alone: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes: while a key is proved, or while the token is still making it."""
    from multiprocessing.connection import Connection

    from ownkey_server.hsm import making

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making, "prove", interrupted)
        assert alone.run("keygen", "acme-main", *alone.at()).code == 130
    receive = Connection.recv_bytes

    def generating(self: Connection, most: int) -> bytes:
        # The answer is there, and whoever asked does not wait for it any more.
        if making_now:
            making_now.clear()
            raise KeyboardInterrupt
        return receive(self, most)

    making_now = []
    generate = making.generate

    def begun(*arguments: object, **more: object) -> object:
        making_now.append(True)
        return generate(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(making, "generate", begun)
        patch.setattr(Connection, "recv_bytes", generating)
        assert alone.run("keygen", "acme-main", *alone.at()).code == 130
    assert [record["phase"] for record in alone.records()[1:]] == ["begun", "failed"] * 2
    assert alone.keys() == {}
    assert alone.done("keygen", "acme-main", *alone.at())["key"] == "acme-main/v1"

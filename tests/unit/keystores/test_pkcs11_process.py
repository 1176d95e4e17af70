"""Processes of a module at a real token that are killed or hang; and PINs, of which there is one try."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ownkey_server.domain.errors import KeyMisconfigured, KeyStoreThrottled, KeyUnreachable
from ownkey_server.keystores.pkcs11.host import ModuleBusy
from ownkey_server.keystores.pkcs11.messages import Answer, Login, Operation, Request
from ownkey_server.keystores.pkcs11.pin import Pin
from ownkey_server.keystores.pkcs11.process import ModuleProcesses
from ownkey_server.keystores.pkcs11.store import Pkcs11KeyStore
from ownkey_server.secret_sources import SecretReference
from support.crooked_module import crooked
from support.key_stores import CONTEXT, KEY, TIMEOUT, answers, until
from support.softhsm import PIN, SoftHsm

LOOK = Request(Operation.LOOK, "hsm", "token", "auto")


class Watched(ModuleProcesses):
    """Processes of which it is known what they were asked."""

    def __init__(self, path: Path, *, count: int = 1, patience: float = 2.0) -> None:
        super().__init__(path, count=count, patience=patience, pause=0.0)
        self.asked: list[Request] = []
        self.lose_login = False

    async def run(self, request: Request, timeout: float) -> Answer:
        self.asked.append(request)
        if self.lose_login and request.login is not None:
            self.lose_login = False
            for pid in self.pids:
                os.kill(pid, signal.SIGSTOP)
        return await super().run(request, timeout)

    @property
    def logins(self) -> int:
        return sum(request.login is not None for request in self.asked)


@pytest.fixture(scope="module")
def label(softhsm: SoftHsm) -> str:
    softhsm.make_token("processes")
    softhsm.make_key("processes", KEY, "SENSITIVE", "ENCRYPT", "DECRYPT")
    return "processes"


def opened(host: ModuleProcesses, label: str, pin: Path) -> Pkcs11KeyStore:
    return Pkcs11KeyStore("hsm", host, token_label=label, pin=Pin(SecretReference.file(pin)))


@asynccontextmanager
async def serving(
    softhsm: SoftHsm, label: str, *, count: int = 1, patience: float = 2.0
) -> AsyncIterator[tuple[Pkcs11KeyStore, Watched]]:
    host = Watched(softhsm.module, count=count, patience=patience)
    store = opened(host, label, softhsm.folder / f"{label}.pin")
    try:
        yield store, host
    finally:
        await store.close()


async def test_one_that_died_idle_costs_no_call(softhsm: SoftHsm, label: str) -> None:
    async with serving(softhsm, label) as (store, host):
        made = await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        for _ in range(2):
            (pid,) = host.pids
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: _is(pid not in host.pids))
            opened = await store.unwrap(KEY, made.wrapped, CONTEXT, TIMEOUT)
            assert opened.plaintext.reveal() == made.plaintext.reveal()


async def test_what_was_being_done_when_it_died_is_an_outage_and_the_next_call_is_served(
    softhsm: SoftHsm, label: str
) -> None:
    async with serving(softhsm, label) as (store, host):
        assert await answers(store, KEY)
        (pid,) = host.pids
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.ensure_future(store.generate_data_key(KEY, CONTEXT, TIMEOUT))
        waiting = [asyncio.ensure_future(store.generate_data_key(KEY, CONTEXT, TIMEOUT)) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(KeyUnreachable, match="died of SIGKILL"):
            await call
        assert len(await asyncio.gather(*waiting)) == 5


async def test_one_that_hangs_is_killed_and_another_serves(softhsm: SoftHsm, label: str) -> None:
    async with serving(softhsm, label, patience=0.3) as (store, host):
        assert await answers(store, KEY)
        (pid,) = host.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(KeyUnreachable, match="did not answer, and was killed"):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        assert await answers(store, KEY)
        assert pid not in host.pids


async def test_one_of_several_that_hangs_does_not_hold_up_the_others(softhsm: SoftHsm, label: str) -> None:
    async with serving(softhsm, label, count=2, patience=60.0) as (store, host):
        assert await answers(store, KEY)
        (first,) = host.pids
        os.kill(first, signal.SIGSTOP)
        two = [asyncio.ensure_future(store.generate_data_key(KEY, CONTEXT, 60.0)) for _ in range(2)]
        await asyncio.wait(two, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(20):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        assert sum(one.done() for one in two) == 1
        os.kill(first, signal.SIGCONT)
        await asyncio.gather(*two)
        assert len(host.pids) == 2
        assert first in host.pids


async def test_where_a_key_has_worked_is_known_after_its_process_died(softhsm: SoftHsm) -> None:
    label = "forgetful"
    softhsm.make_token(label)
    softhsm.make_key(label, KEY, "SENSITIVE", "ENCRYPT", "DECRYPT")
    async with serving(softhsm, label) as (store, host):
        assert await answers(store, KEY)
        softhsm.withdraw_rights(label, KEY)
        os.kill(host.pids[0], signal.SIGKILL)
        await until(lambda: _is(not host.pids))
        # A server that had forgotten would call it misconfigured: a key that never was right.
        assert (await store.describe(KEY, TIMEOUT)).state.name == "REVOKED"


async def test_a_wrong_pin_is_tried_once_whoever_asks_and_whatever_dies(softhsm: SoftHsm, tmp_path: Path) -> None:
    label = "one-try"
    softhsm.make_token(label)
    softhsm.make_key(label, KEY, "SENSITIVE", "ENCRYPT", "DECRYPT")
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("999999\n")
    host = Watched(softhsm.module, count=3)
    store = opened(host, label, pin)
    try:
        for _ in range(2):
            refused = await asyncio.gather(
                *(store.generate_data_key(KEY, CONTEXT, TIMEOUT) for _ in range(12)), return_exceptions=True
            )
            assert all(isinstance(one, KeyMisconfigured) for one in refused), refused
            assert host.logins == 1
            for pid in host.pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: _is(not host.pids))
        pin.write_text(f"{PIN}\n")
        await until(lambda: answers(store, KEY))
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("way", "pin", "tries"),
    [("wrong-pin-crashes", "999999", 1), ("wrong-pin-is-odd", "999999", 1), ("final-try", PIN, 0)],
)
async def test_no_try_of_a_pin_is_spent_that_may_lock_the_token(
    softhsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, pin: str, tries: int
) -> None:
    """The token has counted a wrong PIN though nobody heard its answer; or others have spent all tries but one."""
    label = f"few-tries-{way}"
    softhsm.make_token(label)
    softhsm.make_key(label, KEY, "SENSITIVE", "ENCRYPT", "DECRYPT")
    counted = tmp_path / "tries"
    counted.touch()
    monkeypatch.setenv("CROOKED_LOGINS", str(counted))
    host = Watched(crooked(softhsm, way), count=2)
    store = opened(host, label, softhsm.write_pin(label, pin))
    try:
        failures = []
        for _ in range(6):
            with pytest.raises((KeyUnreachable, KeyMisconfigured)) as caught:
                await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
            failures.append(caught.type)
        assert failures[-1] is KeyMisconfigured
        assert len(counted.read_text()) == tries
    finally:
        await store.close()


async def test_a_login_without_an_answer_is_tried_again_where_no_wrong_pin_was_counted(
    softhsm: SoftHsm, label: str
) -> None:
    async with serving(softhsm, label, patience=0.3) as (store, host):
        host.lose_login = True
        with pytest.raises(KeyUnreachable):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        await until(lambda: answers(store, KEY))


async def test_a_caller_in_a_hurry_does_not_make_the_tokens_answer_to_a_pin_be_lost(
    softhsm: SoftHsm, tmp_path: Path
) -> None:
    softhsm.make_token("hurry")
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("999999\n")
    host = Watched(softhsm.module)
    store = opened(host, "hurry", pin)
    try:
        calls = [asyncio.ensure_future(store.generate_data_key(KEY, CONTEXT, TIMEOUT))]
        await until(lambda: _is(host.logins == 1))
        calls[0].cancel()
        with pytest.raises(KeyMisconfigured, match="has refused the PIN"):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
        assert host.logins == 1
    finally:
        await store.close()


class BusyWithLogins:
    """A module that wants a PIN, and whose callers run out of time while it has one."""

    def __init__(self) -> None:
        self.logins: list[Login] = []

    async def run(self, request: Request, timeout: float) -> Answer:
        if request.login is None:
            return Answer(login_needed=True)
        self.logins.append(request.login)
        raise ModuleBusy("the time ran out")

    async def leave(self, request: Request) -> None:
        pass


async def test_a_pin_whose_answer_came_too_late_may_have_been_tried(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("999999\n")
    host = BusyWithLogins()
    store = Pkcs11KeyStore("hsm", host, token_label="late", pin=Pin(SecretReference.file(pin)))
    for _ in range(2):
        with pytest.raises(KeyStoreThrottled):
            await store.generate_data_key(KEY, CONTEXT, TIMEOUT)
    assert [login.unanswered for login in host.logins] == [False, True]


async def test_a_process_shows_neither_pin_nor_memory(softhsm: SoftHsm, label: str) -> None:
    async with serving(softhsm, label) as (store, host):
        assert await answers(store, KEY)
        proc = Path(f"/proc/{host.pids[0]}")
        shown = (proc / "cmdline").read_bytes()
        assert b"worker" in shown
        assert PIN.encode() not in shown
        status = (proc / "limits").read_text()
        assert "Max core file size        0                    0" in status


async def test_it_ends_with_its_server_even_when_that_is_killed(softhsm: SoftHsm, label: str) -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from ownkey_server.keystores.pkcs11.messages import Operation, Request
        from ownkey_server.keystores.pkcs11.process import ModuleProcesses

        async def main():
            host = ModuleProcesses(Path(sys.argv[1]))
            await host.run(Request(Operation.LOOK, "hsm", sys.argv[2], "auto"), 20.0)
            print(host.pids[0], flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    command = [sys.executable, "-c", script, str(softhsm.module), label]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, signal.SIGSTOP)  # as one that hangs in C: it sees nothing of its socket's end
        parent.kill()
    await until(lambda: _is(not Path(f"/proc/{worker}/exe").exists()))


async def _is(condition: bool) -> bool:
    return condition

"""What is started in place of a module's process: it never comes up, talks garbage, dies, or answers something else."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from ownkey_server.keystores.pkcs11 import child as child_module
from ownkey_server.keystores.pkcs11.host import ModuleBusy, ModuleStuck
from ownkey_server.keystores.pkcs11.messages import Answer, Login, Operation, Request
from ownkey_server.keystores.pkcs11.process import MOST_SENT, ModuleProcesses
from support.key_stores import TIMEOUT, until

LOOK = Request(Operation.LOOK, "hsm", "token", "auto")


@pytest.fixture
def odd_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a program that is started instead of the real one."""
    monkeypatch.setattr(child_module, "WORKER", "odd_worker")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path / "odd_worker.py"


async def test_one_that_cannot_start_is_started_again_with_pauses_and_callers_know_at_once(odd_worker: Path) -> None:
    odd_worker.write_text("import sys; sys.exit(3)")
    host = ModuleProcesses(Path("/nowhere/module.so"))
    try:
        with pytest.raises(ModuleStuck, match="ended with code 3"):
            await host.run(LOOK, TIMEOUT)
        with pytest.raises(ModuleStuck, match="ended with code 3"):
            await host.run(LOOK, TIMEOUT)
        # Now it is in a pause: nothing is started, and nobody waits.
        with pytest.raises(ModuleStuck, match="ended with code 3"):
            await host.run(LOOK, 0.001)
        odd_worker.write_text("from ownkey_server.keystores.pkcs11.worker import main; main()")

        async def sound() -> bool:
            try:
                return (await host.run(LOOK, TIMEOUT)).error is not None  # there is no such module: an answer
            except (ModuleStuck, ModuleBusy):
                return False

        await until(sound)
    finally:
        await host.leave(LOOK)


@pytest.mark.parametrize("said", ["b'\\xff' * 64", "bytes(4)", "b'\\0\\0\\0\\5hello'", "b'\\0\\0'"])
async def test_one_that_talks_garbage_is_killed(odd_worker: Path, said: str) -> None:
    odd_worker.write_text(f"import os\nwhile True:\n    os.write(0, {said})\n    os.read(0, 65536) or os._exit(0)\n")
    host = ModuleProcesses(Path("/nowhere/module.so"), patience=0.3, start=1.0)
    try:
        with pytest.raises(ModuleStuck):
            await host.run(LOOK, TIMEOUT)
        assert host.pids == []
    finally:
        await host.leave(LOOK)


_REPEATS = """
import os
from ownkey_server.keystores.pkcs11 import messages
said = bytes(messages.pack_answer(messages.Answer(data_key=bytearray(b"k" * 32))))
os.write(0, messages.pack_answer(messages.Answer()))
while os.read(0, 65536):
    os.write(0, said + said)
"""


async def test_an_answer_to_one_request_is_never_taken_for_that_to_another(odd_worker: Path) -> None:
    """Whatever a module does to its process: a data key is not handed to whoever asked next."""
    odd_worker.write_text(_REPEATS)
    host = ModuleProcesses(Path("/nowhere/module.so"))
    try:
        for _ in range(2):
            with pytest.raises(ModuleStuck, match="another request"):
                await host.run(LOOK, TIMEOUT)
            assert host.pids == []
    finally:
        await host.leave(LOOK)


_DIES_ONCE = """
import os, pathlib, socket
from ownkey_server.keystores.pkcs11 import messages
from ownkey_server.keystores.pkcs11.frames import Frames
log = pathlib.Path(__file__).with_suffix(".log")
first = not log.exists()
requests, frames = socket.socket(fileno=os.dup(0)), Frames()
requests.sendall(messages.pack_answer(messages.Answer()))
while count := requests.recv_into(frames.room()):
    frames.came(count)
    for number, body in frames.whole():
        request = messages.unpack_request(body)
        if first and request.reference == "deadly":
            os._exit(3)
        with log.open("a") as file:
            file.write(request.reference + "\\n")
        requests.sendall(messages.pack_answer(messages.Answer(data_key=bytearray(request.reference.encode())), number))
"""


async def test_only_what_a_process_died_in_is_lost_and_what_it_was_sent_ahead_is_done_by_the_next(
    odd_worker: Path,
) -> None:
    odd_worker.write_text(_DIES_ONCE)
    host = ModuleProcesses(Path("/nowhere/module.so"))
    try:
        await host.run(_use("first"), TIMEOUT)
        (pid,) = host.pids
        os.kill(pid, signal.SIGSTOP)  # until all are sent
        names = ["before", "deadly", "after", "later", "last"]
        calls = [asyncio.ensure_future(host.run(_use(name), TIMEOUT)) for name in names]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGCONT)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        deadly = outcomes.pop(1)
        assert isinstance(deadly, ModuleStuck)
        assert "ended with code 3" in str(deadly)
        assert [bytes(one.data_key).decode() for one in outcomes if isinstance(one, Answer)] == [
            "before",
            "after",
            "later",
            "last",
        ]
        assert odd_worker.with_suffix(".log").read_text().split() == ["first", "before", "after", "later", "last"]
    finally:
        await host.leave(LOOK)


async def test_what_would_leave_something_in_the_token_is_not_begun_when_its_caller_has_gone(odd_worker: Path) -> None:
    odd_worker.write_text(_DIES_ONCE)
    host = ModuleProcesses(Path("/nowhere/module.so"))
    try:
        await host.run(_use("first"), TIMEOUT)
        (pid,) = host.pids
        os.kill(pid, signal.SIGSTOP)
        before = asyncio.ensure_future(host.run(_use("before"), TIMEOUT))
        await asyncio.sleep(0)
        for request in (
            Request(Operation.CREATE, "hsm", "token", "auto", reference="made"),
            Request(Operation.LOOK, "hsm", "token", "auto", reference="login", login=Login(b"471100")),
        ):
            with pytest.raises(ModuleBusy, match="before the call's turn came"):
                await host.run(request, 0.01)
        os.kill(pid, signal.SIGCONT)
        await before
        await host.run(_use("after"), TIMEOUT)
        assert odd_worker.with_suffix(".log").read_text().split() == ["first", "before", "after"]
    finally:
        await host.leave(LOOK)


async def test_a_single_process_has_a_few_calls_at_once_and_no_more(odd_worker: Path) -> None:
    odd_worker.write_text(_DIES_ONCE)
    host = ModuleProcesses(Path("/nowhere/module.so"), max_queued=2)
    try:
        await host.run(_use("first"), TIMEOUT)
        os.kill(host.pids[0], signal.SIGSTOP)
        calls = [asyncio.ensure_future(host.run(_use(str(number)), TIMEOUT)) for number in range(MOST_SENT + 2)]
        await asyncio.sleep(0)
        with pytest.raises(ModuleBusy, match="2 calls are waiting already"):
            await host.run(_use("one more"), TIMEOUT)
        os.kill(host.pids[0], signal.SIGCONT)
        answers = await asyncio.gather(*calls)
        assert [bytes(one.data_key) for one in answers] == [b"%d" % number for number in range(MOST_SENT + 2)]
    finally:
        await host.leave(LOOK)


def _use(reference: str) -> Request:
    return Request(Operation.GENERATE, "hsm", "token", "auto", reference=reference)


async def test_whoever_waits_when_the_store_is_closed_starts_nothing_anew(odd_worker: Path) -> None:
    odd_worker.write_text("from ownkey_server.keystores.pkcs11.worker import main; main()")
    host = ModuleProcesses(Path("/nowhere/module.so"))
    await host.run(LOOK, TIMEOUT)
    (pid,) = host.pids
    os.kill(pid, signal.SIGSTOP)
    calls = [asyncio.ensure_future(host.run(LOOK, TIMEOUT)) for _ in range(6)]
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(host.leave(LOOK))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGCONT)
    await leaving
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], Answer)
    assert [str(one) for one in outcomes[1:]] == ["the key store is closed"] * 5
    assert host.pids == []


async def test_the_queue_is_bounded(odd_worker: Path) -> None:
    odd_worker.write_text(
        "import os, time\nfrom ownkey_server.keystores.pkcs11.messages import Answer, pack_answer\n"
        "os.write(0, pack_answer(Answer()))\ntime.sleep(60)\n"
    )
    host = ModuleProcesses(Path("/nowhere/module.so"), max_queued=2)
    calls = [asyncio.ensure_future(host.run(LOOK, 1.0)) for _ in range(3)]
    await until(lambda: _is(bool(host.pids)))
    with pytest.raises(ModuleBusy, match="waiting already"):
        await host.run(LOOK, TIMEOUT)
    for pid in host.pids:
        os.kill(pid, signal.SIGKILL)
    assert all(
        isinstance(one, (ModuleStuck, ModuleBusy)) for one in await asyncio.gather(*calls, return_exceptions=True)
    )
    odd_worker.write_text("import sys; sys.exit(3)")
    await host.leave(LOOK)


async def _is(condition: bool) -> bool:
    return condition

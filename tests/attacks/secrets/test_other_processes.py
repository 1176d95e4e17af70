"""What another process of the same user can get out of a running server: nothing. And what a crash leaves: no core."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.rpc import asset, connected, pb
from support.server import OWNKEY, process, write_settings

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
START_SECONDS = 60

# Starts a process, waits until it says that it is up, and tries to get at the memory of it and of its children. That it
# is their parent helps it: Yama lets parents trace their children.
ATTACKER = textwrap.dedent(
    """
    import ctypes, json, os, subprocess, sys
    from pathlib import Path

    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    libc.ptrace.restype = ctypes.c_long
    PTRACE_ATTACH, PTRACE_DETACH = 16, 17

    def traced(pid):
        if libc.ptrace(PTRACE_ATTACH, pid, 0, 0) != 0:
            return os.strerror(ctypes.get_errno())
        os.waitpid(pid, 0x40000000)  # __WALL
        libc.ptrace(PTRACE_DETACH, pid, 0, 0)
        return "done"

    def opened(path):
        try:
            with open(path, "rb") as file:
                return "done" if path.endswith("mem") or file.read(1) else "empty"
        except OSError as error:
            return error.strerror

    def parent(pid):
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return 0  # it has ended meanwhile

    victim = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in victim.stdout:
            if sys.argv[1] in line:
                break
        else:
            sys.exit("it did not start")
        family = [victim.pid] + [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(pid) == victim.pid
        ]
        files = ("environ", "maps", "mem", "auxv")
        print(json.dumps([
            {"trace": traced(pid)} | {name: opened(f"/proc/{pid}/{name}") for name in files} for pid in family
        ]))
    finally:
        victim.terminate()
        victim.wait()
    """
)
DENIED = {"Permission denied", "Operation not permitted"}


# linux/capability.h, by number: with any of these root reads the memory of every process.
SYS_PTRACE, SYS_ADMIN, PERFMON = 19, 21, 38
IPC_LOCK = 14


def without(*capabilities: int) -> Callable[[], None]:
    """What a child does before it becomes another program, so that as root it has not these capabilities there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def give_up() -> None:
        if os.geteuid() == 0:
            for capability in capabilities:
                libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    return give_up


def attacked(marker: str, *command: str) -> list[dict[str, str]]:
    """What the attacker could do to each process of a command, once its output has the marker."""
    done = subprocess.run(
        [sys.executable, "-c", ATTACKER, marker, *command],
        preexec_fn=without(SYS_PTRACE, SYS_ADMIN, PERFMON),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    answer: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_attacker_succeeds_on_a_process_that_is_not_hardened() -> None:
    (got,) = attacked("up", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if yama.exists() and int(yama.read_text(encoding="ascii")) > 1:
        got |= {"trace": "done", "mem": "done"}  # forbidden to everybody on this machine
    assert set(got.values()) == {"done"}


@pytest.mark.parametrize(("arguments", "processes"), [((), 1), (("--workers", "2"), 3)])
def test_no_process_of_a_server_can_be_traced_or_read(tmp_path: Path, arguments: Sequence[str], processes: int) -> None:
    config = write_settings(tmp_path)
    got = attacked(" on 127.0.0.1:", OWNKEY, "serve", "--config", str(config), *arguments)
    assert len(got) == processes
    for results in got:
        assert set(results.values()) <= DENIED, results


def test_a_command_that_holds_keys_cannot_be_traced_or_read(tmp_path: Path) -> None:
    config = write_settings(tmp_path)
    program = (
        "import time; from ownkey_server.commands import server as commands;"
        "commands.open_key_stores = lambda settings: [print('holding', flush=True), time.sleep(600)];"
        f"commands.keystore.main(['create', 'x', '--config', {str(config)!r}])"
    )
    (got,) = attacked("holding", sys.executable, "-c", program)
    assert set(got.values()) <= DENIED, got


@contextlib.contextmanager
def started(folder: Path, *command: str, marker: str, **environment: str) -> Iterator[int]:
    """A process in a folder, allowed to leave a core and few open files as far as its limits go; gives its pid."""

    def loosen() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    running = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        preexec_fn=loosen,  # noqa: PLW1509 - no threads are at work here
    )
    try:
        assert running.stdout is not None
        said = ""
        for line in running.stdout:
            said += line
            if marker in line:
                break
        else:
            raise AssertionError(f"it did not start:\n{said}")
        yield running.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        running.wait()
        running.stdout.close()


@contextlib.contextmanager
def server(folder: Path, **environment: str) -> Iterator[int]:
    """A server in its settings' folder; gives its pid."""
    config = write_settings(folder)
    command = (OWNKEY, "serve", "--config", str(config))
    with started(folder, *command, marker=" on 127.0.0.1:", **environment) as pid:
        yield pid


def ended_by(pid: int, number: signal.Signals) -> tuple[int, bool]:
    """The signal that ended a process that was sent one, and whether the kernel wrote a core, wherever that is."""
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status), os.WCOREDUMP(status)


def limit(pid: int, name: str) -> list[str]:
    """A soft and a hard limit of a process."""
    for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return line.removeprefix(name).split()[:2]
    raise AssertionError(name)


def test_a_process_that_is_not_hardened_leaves_a_core_where_the_machine_allows_it(tmp_path: Path) -> None:
    program = "import time; print('up', flush=True); time.sleep(600)"
    with started(tmp_path, sys.executable, "-c", program, marker="up") as pid:
        allowed = limit(pid, "Max core file size")[0] != "0"
        assert ended_by(pid, signal.SIGSEGV)[0] == signal.SIGSEGV
    # A relative pattern is the kernel's default; elsewhere cores go to a program or a folder of the machine's own.
    if allowed and CORE_PATTERN.read_text(encoding="ascii").strip() == "core":
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("core")]


CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


@pytest.mark.parametrize("number", CRASHES, ids=lambda number: number.name)
def test_a_server_that_crashes_leaves_no_core(tmp_path: Path, number: signal.Signals) -> None:
    with server(tmp_path, PYTHONFAULTHANDLER="1") as pid:
        assert limit(pid, "Max core file size") == ["0", "0"]
        by, dumped = ended_by(pid, number)
    assert by in CRASHES  # telling of one crash, Python's fault handler may crash another way
    assert not dumped
    assert not [path for path in tmp_path.iterdir() if "core" in path.name]


def test_a_server_takes_all_the_open_files_that_it_may(tmp_path: Path) -> None:
    with server(tmp_path) as pid:
        soft, hard = limit(pid, "Max open files")
    assert int(soft) == min(int(hard), 1 << 20) > 256


def status_of(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise AssertionError(name)


def test_memory_is_locked_where_it_may_be_and_a_server_that_may_not_does_not_start(tmp_path: Path) -> None:
    config = write_settings(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY
    if os.geteuid() == 0 or unlimited:
        with server(tmp_path, OWNKEY_SERVER__LOCK_MEMORY="true") as pid:
            # Everything is, but for a few pages of the kernel's own.
            assert status_of(pid, "VmLck:") > 0.9 * status_of(pid, "VmSize:")
        with server(tmp_path) as pid:
            assert status_of(pid, "VmLck:") == 0
    give_up = without(IPC_LOCK)

    def restrict() -> None:
        give_up()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))

    done = subprocess.run(
        [OWNKEY, "serve", "--config", str(config)],
        env=os.environ | {"OWNKEY_SERVER__LOCK_MEMORY": "true"},
        preexec_fn=restrict,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert done.returncode == 1
    assert "LimitMEMLOCK=infinity" in done.stderr
    assert "at most 64 KiB may be" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_from_the_environment_is_not_handed_on_to_child_processes(tmp_path: Path) -> None:
    from ownkey_server.secret_sources import SecretReference, take_from_environment

    os.environ["OWNKEY_TEST_PIN"] = "271828"
    reference = SecretReference.parse("env:OWNKEY_TEST_PIN")
    take_from_environment([reference])
    assert subprocess.run(["printenv", "OWNKEY_TEST_PIN"], check=False, capture_output=True).stdout == b""
    assert reference.read().reveal() == b"271828"


async def test_every_worker_has_the_secrets_of_its_supervisor_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS_PASSPHRASE", "some stones")
    sealed = 'passphrase = "env:KEYS_PASSPHRASE"\n'  # in the template's last section
    with process(tmp_path, ("--workers", "2"), extra=sealed) as running:
        for _ in range(8):  # each connection goes to one of them
            async with connected(running.address) as rpc:
                made = await rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True))
                assert len(made.plaintext) == 32
    assert {path.stat().st_size for path in (tmp_path / "keys").glob("*.key")} == {97}

"""``ownkey serve --workers N``: N server processes that share one TCP port, and their parent, which serves nobody.

The parent holds the port, starts the workers, starts another for each that dies, and ends them all when it is told to.
Workers are started by exec and never by fork: neither gRPC nor a PKCS#11 module survives a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ownkey_server import shared_port, worker

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
PROVEN_AFTER_SECONDS = 10.0
# What a worker may take to end beside the draining of its calls: closing key stores, leaving the interpreter.
MARGIN_SECONDS = 5.0
LISTEN_VARIABLE = "OWNKEY_SERVER__LISTEN"


class WorkersError(Exception):
    """The workers cannot be started."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    Attributes:
        workers: How many.
        listen: ``HOST:PORT``; port 0 takes a free one, the same for all workers.
        others: Further addresses of the settings, by their variables, to be shared in the same way.
        command: Starts one worker, which learns from its environment that it is one.
        patience_seconds: A worker that was told to end and has not by then is killed.
    """

    workers: int
    listen: str
    command: Sequence[str]
    patience_seconds: float
    others: Mapping[str, str] = field(default_factory=dict)


class Backoff:
    """How long to wait before a worker is replaced: ever longer, until one has served long enough to be proven."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._delay = FIRST_DELAY_SECONDS
        self._serving_since: float | None = None

    def serving(self) -> None:
        """The worker serves from now on."""
        self._serving_since = self._clock()

    def ended(self) -> float:
        """The worker has ended; gives the seconds until another may be started."""
        since, self._serving_since = self._serving_since, None
        if since is not None and self._clock() - since >= PROVEN_AFTER_SECONDS:
            self._delay = FIRST_DELAY_SECONDS
        delay = self._delay
        self._delay = min(2 * delay, LONGEST_DELAY_SECONDS)
        return delay


async def _nothing() -> None:
    pass


async def supervise_until_signal(plan: Plan, prepare: Callable[[], Awaitable[None]] = _nothing) -> None:
    """Run the workers until SIGTERM or SIGINT, and then end them.

    Args:
        plan: What is to be run.
        prepare: What must happen once and not in every worker. It runs when the port is ours and no worker was started.

    Raises:
        OSError: The address cannot be bound.
        WorkersError: The address is not one to share, or a worker ended before it served for the first time.
    """
    for variable, listen in {LISTEN_VARIABLE: plan.listen, **plan.others}.items():
        if listen.startswith("unix:"):
            setting = variable.removeprefix("OWNKEY_").replace("__", ".").lower()
            raise WorkersError(
                f"several workers cannot share {listen}: set {setting} to HOST:PORT, or leave --workers at 1"
            )
    with contextlib.ExitStack() as held:
        address = held.enter_context(shared_port.held(plan.listen))
        others = {name: held.enter_context(shared_port.held(listen)) for name, listen in plan.others.items()}
        plan = replace(plan, others=others)
        await prepare()
        with _stop_signals() as stop:
            await supervise(plan, address, stop)


async def supervise(plan: Plan, address: str, stop: asyncio.Event) -> None:
    """Run the workers on an address that is held, until ``stop`` is set.

    Raises:
        WorkersError: A worker ended before it served for the first time; the others are ended too.
    """
    places = [_Place(plan, number, address) for number in range(1, plan.workers + 1)]
    keepers = [asyncio.create_task(place.keep_filled(), name=f"worker-{place.number}") for place in places]
    announcing = asyncio.create_task(_announce(places, address), name="announcing")
    stopping = asyncio.create_task(stop.wait(), name="stopping")
    try:
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            _log.info("ending %d workers, within %g s", plan.workers, plan.patience_seconds)
    finally:
        tasks = [announcing, stopping, *keepers]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _announce(places: Sequence[_Place], address: str) -> None:
    for place in places:
        await place.serving.wait()
    _log.info("serving with %d workers on %s", len(places), address)


class _Place:
    """The place of one worker: whoever dies in it is replaced.

    Attributes:
        number: From 1.
        serving: Set once a worker has served in it.
    """

    def __init__(self, plan: Plan, number: int, address: str) -> None:
        self._plan = plan
        self._address = address
        self.number = number
        self.serving = asyncio.Event()

    async def keep_filled(self) -> None:
        """Keep a worker running until cancelled, and then end it.

        Raises:
            WorkersError: The first one ended before it served.
        """
        backoff = Backoff()
        while True:
            try:
                end = await self._run_one(backoff)
                hint = " before it served: what it said is above"
            except OSError as error:  # no memory or no process to be had: perhaps later
                end, hint = f"worker {self.number} could not be started: {error}", ""
            if not self.serving.is_set():
                raise WorkersError(end + hint)
            delay = backoff.ended()
            _log.warning("%s; another starts in %g s", end, delay)
            await asyncio.sleep(delay)

    async def _run_one(self, backoff: Backoff) -> str:
        """Start a worker and wait for its end; tells how it ended."""
        ours, theirs = socket.socketpair()
        # Our end closes last: the worker takes that for our death.
        with ours:
            ours.setblocking(False)
            with theirs:
                process = await self._start(theirs.fileno())
            try:
                if await asyncio.get_running_loop().sock_recv(ours, 1):
                    backoff.serving()
                    self.serving.set()
                    _log.info("worker %d is ready (pid %d)", self.number, process.pid)
                return f"worker {self.number} (pid {process.pid}) {_how(await process.wait())}"
            finally:
                await self._end(process)

    async def _start(self, descriptor: int) -> Process:
        # Whatever their case, these variables would be read as the addresses.
        own = {LISTEN_VARIABLE: self._address, **self._plan.others}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in own}
        return await asyncio.create_subprocess_exec(
            *self._plan.command,
            stdin=DEVNULL,
            env={**inherited, **own, **worker.environment(self.number, descriptor)},
            pass_fds=(descriptor,),
            # The terminal's Ctrl-C goes to us alone, and we pass it on.
            start_new_session=True,
        )

    async def _end(self, process: Process) -> None:
        """Have the process end, if it has not yet: by SIGTERM, and by SIGKILL when it takes too long."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._plan.patience_seconds)
        except TimeoutError:
            _log.warning("worker %d (pid %d) did not end in time, and is killed", self.number, process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _how(code: int) -> str:
    """How a process ended, from what ``waitpid`` said of it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal: these have no names
        return f"was ended by signal {-code}"


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set while the block runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)

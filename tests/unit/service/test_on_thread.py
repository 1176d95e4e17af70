"""A question to the database on a thread: it has an end, however it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from ownkey_server.domain.errors import DatabaseUnavailable
from ownkey_server.service.view_cache import on_thread


class AnsweredByTheTest(Executor):
    """Whose questions the test answers, at the moment that it likes."""

    def __init__(self) -> None:
        self.answers: list[Future[Any]] = []

    def submit(self, question: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.answers.append(Future())
        return self.answers[-1]


async def test_whoever_is_ended_just_as_the_answer_comes_is_ended() -> None:
    executor, rounds = AnsweredByTheTest(), 0

    async def for_ever() -> None:
        nonlocal rounds
        while rounds < 3:
            await on_thread(executor, lambda: 1)
            rounds += 1

    task = asyncio.create_task(for_ever())
    while not executor.answers:
        await asyncio.sleep(0)
    executor.answers[0].set_result(1)
    # After the answer has landed in the loop, and before whoever waits for it has been woken.
    asyncio.get_running_loop().call_soon(task.cancel)
    done, _ = await asyncio.wait([task], timeout=5)
    task.cancel()
    assert task in done
    assert (task.cancelled(), rounds) == (True, 0)


async def test_what_does_not_answer_in_time_is_an_outage() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await on_thread(AnsweredByTheTest(), lambda: 1, 0.01)
    assert caught.value.cause == "no answer within 0.01 s"


async def test_an_answer_comes_back() -> None:
    assert await on_thread(None, lambda: 7) == 7  # type: ignore[arg-type]

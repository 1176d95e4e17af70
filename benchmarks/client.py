"""The client of the measurements: takes jobs as lines of JSON, answers each with a line of JSON, ends with its input.

It sends and receives bytes that were made before, and looks at none of them while time is taken, so that it does less
than any server it measures.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import http2
from harness import run_on_fast_loop

from ownkey.media_messages import chunk_of, chunk_prefix
from ownkey.v1 import asset_pb2, key_service_pb2

MIB = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]
SERVICE = "/ownkey.v1.KeyService"
ASSET = asset_pb2.Asset(
    tenant="acme",
    asset_class=asset_pb2.ASSET_CLASS_PHONE_RECORDING,
    asset_id="benchmark-0000-4711",
    user="sam@acme.example",
)
ENCRYPT_START = key_service_pb2.EncryptMediaRequest(
    start=key_service_pb2.EncryptMediaStart(asset=ASSET)
).SerializeToString()
DECRYPT_START = key_service_pb2.DecryptMediaRequest(
    start=key_service_pb2.DecryptMediaStart(asset=ASSET)
).SerializeToString()

Answer = dict[str, Any]


def messages(data: bytes, chunk: int) -> list[bytes]:
    """The data as messages of a media stream."""
    with memoryview(data) as view:
        pieces = (view[at : at + chunk] for at in range(0, len(data), chunk))
        return [b"".join((chunk_prefix(len(piece)), piece)) for piece in pieces]


def _data_key_request(tenant: str) -> bytes:
    asset = asset_pb2.Asset()
    asset.CopyFrom(ASSET)
    asset.tenant = tenant
    return key_service_pb2.GenerateDataKeyRequest(asset=asset, with_plaintext=True).SerializeToString()


class Client:
    """The jobs. Channels and data are kept from one job to the next."""

    def __init__(self) -> None:
        self._channels: dict[tuple[str, int], grpc.aio.Channel] = {}
        self._messages: dict[str, list[bytes]] = {}
        self._request = b""

    def _channel(self, address: str, number: int = 0) -> grpc.aio.Channel:
        key = (address, number)
        if key not in self._channels:
            options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            self._channels[key] = grpc.aio.insecure_channel(address, options=options)
        return self._channels[key]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def prepare_streams(self, address: str, size: int, chunk: int) -> Answer:
        """Content of `size` bytes, and the object that the server makes of it, both in chunks."""
        content = random.Random(1).randbytes(size)
        self._messages["EncryptMedia"] = messages(content, chunk)
        method = self._channel(address).stream_stream(f"{SERVICE}/EncryptMedia")
        answers = [raw async for raw in method(iter([ENCRYPT_START, *self._messages["EncryptMedia"]]))]
        whole = b"".join(found for raw in answers if (found := chunk_of(raw)) is not None)
        self._messages["DecryptMedia"] = messages(whole, chunk)
        method = self._channel(address).stream_stream(f"{SERVICE}/DecryptMedia")
        answers = [raw async for raw in method(iter([DECRYPT_START, *self._messages["DecryptMedia"]]))]
        back = b"".join(found for raw in answers if (found := chunk_of(raw)) is not None)
        assert back == content, "what was decrypted is not what was encrypted"
        return {"object": len(whole)}

    async def stream(self, address: str, method: str, data: str, streams: int) -> Answer:
        """Run streams at once, each with all of the data; the time from the first byte to the last answer."""
        start = ENCRYPT_START if data == "EncryptMedia" else DECRYPT_START
        call = self._channel(address).stream_stream(method)
        cpu, begin = time.process_time(), time.perf_counter()
        received = await asyncio.gather(*(self._one_stream(call, start, data) for _ in range(streams)))
        spent = time.perf_counter() - begin
        assert min(received) >= sum(map(len, self._messages[data])) * 0.99, "a stream came back short"
        return {"seconds": spent, "client_cpu": time.process_time() - cpu}

    async def prepare_unary(self, address: str, empty: str) -> Answer:
        """Have the empty method answer with the very bytes that GenerateDataKey answered."""
        self._request = _data_key_request(ASSET.tenant)
        answer = await self._channel(address).unary_unary(f"{SERVICE}/GenerateDataKey")(self._request)
        await self._channel(empty).unary_unary("/Empty/Prepare")(answer)
        same = await self._channel(empty).unary_unary("/Empty/GenerateDataKey")(self._request)
        assert len(same) == len(answer), "the baseline answers with something else"
        return {"request": len(self._request), "response": len(answer)}

    async def unary(
        self, address: str, method: str, calls: int, connections: int, at_once: int, tenants: Sequence[str] = ()
    ) -> Answer:
        """Calls in a closed loop, for these tenants in turn; the time from the first request to the last answer."""
        requests = [_data_key_request(tenant) for tenant in tenants] or [self._request]
        cpu = time.process_time()
        loop = http2.closed_loop(address, method, requests, calls=calls, connections=connections, at_once=at_once)
        return {"seconds": loop, "client_cpu": time.process_time() - cpu}

    async def timed(
        self, address: str, method: str, requests: Sequence[str], calls: int, connections: int, at_once: int
    ) -> Answer:
        """Calls in a closed loop, with these requests (in hex) in turn; with p50 and p99 of how long one took."""
        raw, taken = [bytes.fromhex(one) for one in requests], list[float]()
        seconds = http2.closed_loop(
            address, method, raw, calls=calls, connections=connections, at_once=at_once, latencies=taken
        )
        taken.sort()
        p50, p99 = (1000 * taken[min(calls - 1, calls * percent // 100)] for percent in (50, 99))
        return {"seconds": seconds, "p50_ms": p50, "p99_ms": p99}

    async def slow_readers(
        self, address: str, streams: int, size: int, chunk: int, pause: float, each: float, seconds: float
    ) -> Answer:
        """Streams at once that are written to as fast as the server takes them, and read slowly.

        Nothing is read for `pause` seconds; then each stream is read at `each` bytes a second. After `seconds` they
        are cancelled, whatever is missing.
        """
        readers = SlowReaders(self._channel(address).stream_stream(f"{SERVICE}/EncryptMedia"), size, chunk)
        begin = time.perf_counter()
        tasks = [asyncio.create_task(readers.run(begin + pause, each)) for _ in range(streams)]
        done, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
        spent = time.perf_counter() - begin
        return {"seconds": spent, "sent": readers.sent, "received": readers.received, "completed": len(done)}

    async def _one_stream(self, method: Any, start: bytes, data: str) -> int:
        call = method()

        async def send() -> None:
            await call.write(start)
            for message in self._messages[data]:
                await call.write(message)
            await call.done_writing()

        sending = asyncio.create_task(send())
        received = 0
        while (raw := await call.read()) is not grpc.aio.EOF:
            received += len(raw)
        await sending
        status = await call.code()
        assert status is grpc.StatusCode.OK, status
        return received


class SlowReaders:
    """Streams whose answers are read more slowly than the server could give them; counts their bytes."""

    def __init__(self, method: Any, size: int, chunk: int) -> None:
        self._method = method
        self._message = messages(random.Random(1).randbytes(chunk), chunk)[0]
        self._chunks = size // chunk
        self.sent = 0
        self.received = 0

    async def run(self, start: float, each: float) -> None:
        """One stream, read from `start` on, at `each` bytes a second."""
        call = self._method()
        sending = asyncio.create_task(self._send(call))
        read = 0
        try:
            while True:
                await asyncio.sleep(max(0, start + read / each - time.perf_counter()))  # the reader's slowness
                raw = await call.read()
                if raw is grpc.aio.EOF:
                    break
                read += len(raw)
                self.received += len(raw)
            await sending
            assert await call.code() is grpc.StatusCode.OK, await call.details()
        finally:
            sending.cancel()
            call.cancel()

    async def _send(self, call: Any) -> None:
        await call.write(ENCRYPT_START)
        for _ in range(self._chunks):
            await call.write(self._message)
            self.sent += len(self._message)
        await call.done_writing()


async def lines() -> AsyncIterator[str]:
    """The lines of our input."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def run() -> None:
    client = Client()
    try:
        async for line in lines():
            job = json.loads(line)
            answer = await getattr(client, job.pop("do"))(**job)
            print(json.dumps(answer), flush=True)
    finally:
        await client.close()


def main() -> None:
    run_on_fast_loop(run())


if __name__ == "__main__":
    main()

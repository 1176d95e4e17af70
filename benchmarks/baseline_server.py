"""The baselines: a gRPC server like ownkey's, with the same options and loop, whose methods do no work.

- `Echo/Messages` reads and writes the media streams' messages with the code that protobuf generates for them.
- `Echo/Bytes` sends every request back as it came, without looking at it.
- `Empty/GenerateDataKey` parses the request and serialises a response that was made before.

Prints its address as a line of JSON, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import grpc
from harness import run_on_fast_loop

from ownkey.v1 import key_service_pb2

MIB = 1 << 20
# As in ownkey_server/rpc/server.py and the defaults of its settings.
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 8 * MIB),
    ("grpc.max_send_message_length", 8 * MIB),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", MIB),
]
EncryptMediaRequest = key_service_pb2.EncryptMediaRequest
EncryptMediaResponse = key_service_pb2.EncryptMediaResponse
Context = grpc.aio.ServicerContext[EncryptMediaRequest, EncryptMediaResponse]


async def echo_messages(
    requests: AsyncIterator[EncryptMediaRequest], _context: Context
) -> AsyncIterator[EncryptMediaResponse]:
    async for request in requests:
        yield EncryptMediaResponse(chunk=request.chunk)


async def echo_bytes(requests: AsyncIterator[bytes], _context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


class Empty:
    """Answers what it was given; a request with a key of its own sets it."""

    def __init__(self) -> None:
        self._response = key_service_pb2.GenerateDataKeyResponse()

    async def prepare(self, raw: bytes, _context: Context) -> bytes:
        self._response = key_service_pb2.GenerateDataKeyResponse.FromString(raw)
        return b""

    async def generate_data_key(
        self, _request: key_service_pb2.GenerateDataKeyRequest, _context: Context
    ) -> key_service_pb2.GenerateDataKeyResponse:
        return self._response


def add_methods(server: grpc.aio.Server) -> None:
    empty = Empty()
    echo = {
        "Messages": grpc.stream_stream_rpc_method_handler(
            echo_messages,
            request_deserializer=EncryptMediaRequest.FromString,
            response_serializer=EncryptMediaResponse.SerializeToString,
        ),
        "Bytes": grpc.stream_stream_rpc_method_handler(echo_bytes),
    }
    unary = {
        "Prepare": grpc.unary_unary_rpc_method_handler(empty.prepare),
        "GenerateDataKey": grpc.unary_unary_rpc_method_handler(
            empty.generate_data_key,
            request_deserializer=key_service_pb2.GenerateDataKeyRequest.FromString,
            response_serializer=key_service_pb2.GenerateDataKeyResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Echo", echo), grpc.method_handlers_generic_handler("Empty", unary))
    )


async def serve() -> None:
    server = grpc.aio.server(options=OPTIONS)
    add_methods(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(1)


def main() -> None:
    run_on_fast_loop(serve())


if __name__ == "__main__":
    main()

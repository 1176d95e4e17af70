"""How the control plane is called: one channel, one author, one way for errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from ownkey import _exchange, errors
from ownkey._exchange import CHANNEL_OPTIONS, DEFAULT_ADDRESS
from ownkey._requests import made
from ownkey.v1 import admin_service_pb2_grpc, change_note_pb2

M = TypeVar("M", bound=Message)

PAGE_SIZE = 500
ANY_ETAG = "*"
"""The etag of whoever wants to write over whatever there is."""


class AdminCalls:
    """The channel, and what every call has in common."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        author: str = "",
        approval: str = "",
    ) -> None:
        _exchange.require_timeout(timeout)
        if credentials is None:
            _exchange.require_local(address)
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._timeout = timeout
        self._author = author
        self._approval = approval
        self._stub = admin_service_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, reason: str) -> change_note_pb2.ChangeNote:
        return made(change_note_pb2.ChangeNote, author=self._author, reason=reason, approval=self._approval)

    def _call(self, method: Callable[..., M], request: Message) -> M:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    def _pages(self, method: Callable[..., M], request: Any) -> Iterator[M]:
        request.page_size = PAGE_SIZE
        while True:
            page: Any = self._call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

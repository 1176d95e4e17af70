"""Custodians who confirm elsewhere: at another terminal, or at another machine to which a file is carried.

Who runs a ceremony writes a *request* into a folder: the very record that is to be signed, and the hash of the one
before it. The custodian is shown what that record says, and signs those bytes; what comes back is an *answer*, a
signature or a no. Neither holds a secret. A signature covers the record and its place in the log, so that it counts
nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownkey_server.domain import audit
from ownkey_server.domain.ceremonies import Action, Confirmation, Phase, Record
from ownkey_server.hsm.custodians import Custodian, good
from ownkey_server.hsm.errors import HsmError, Trouble
from ownkey_server.hsm.new_files import write_new

REQUEST = ".request.json"
ANSWER = ".answer.json"
SECONDS_BETWEEN_LOOKS = 0.2
LONGEST = 1 << 20
_REQUEST_KIND = "ownkey ceremony request"
_ANSWER_KIND = "ownkey ceremony answer"
_VERSION = 1
_HASH_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Request:
    """What a custodian is asked to confirm.

    Attributes:
        custodian: Who is asked.
        number: The record's number in the log.
        previous: Hash of the record before it, 32 bytes.
        record: It, without confirmations.
    """

    custodian: str
    number: int
    previous: bytes
    record: Record

    @property
    def ceremony(self) -> int:
        """Number of the record that began the ceremony."""
        return self.record.ceremony or self.number

    @property
    def statement(self) -> bytes:
        """What is signed."""
        return self.record.statement(self.previous)

    def to_bytes(self) -> bytes:
        """As it is written."""
        fields = {
            "custodian": self.custodian,
            "kind": _REQUEST_KIND,
            "number": self.number,
            "previous": self.previous.hex(),
            "record": json.loads(self.record.body()),
            "version": _VERSION,
        }
        return audit.canonical(fields) + b"\n"

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read one.

        Raises:
            HsmError: It is not there, or is none.
        """
        fields = _fields(path, _REQUEST_KIND)
        try:
            request = cls(
                str(fields["custodian"]),
                int(fields["number"]),
                bytes.fromhex(fields["previous"]),
                Record.from_body(audit.canonical(fields["record"])),
            )
        except (KeyError, TypeError, ValueError):
            raise HsmError(f"{path}: it is no request of a ceremony", Trouble.FORGED) from None
        if len(request.previous) != _HASH_LENGTH or request.record.confirmations:
            raise HsmError(f"{path}: it is no request of a ceremony", Trouble.FORGED)
        return request

    def confirmed(self, custodian: Custodian) -> bytes:
        """The answer of a custodian who confirms."""
        signature = custodian.confirm(self.record, self.previous).signature
        return _answer(self.custodian, {"signature": signature.hex()})

    def refused(self) -> bytes:
        """The answer of one who does not."""
        return _answer(self.custodian, {"refused": True})


@dataclass(frozen=True)
class CustodianElsewhere:
    """A custodian who is asked by a file.

    Attributes:
        name: Who.
        public_key: 32 bytes, as the log has them.
        folder: Where requests and answers are.
        seconds: How long an answer is waited for.
        tell: Says to whoever runs the ceremony what is waited for.
    """

    name: str
    public_key: bytes
    folder: Path
    seconds: float
    tell: Callable[[Path], None]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @contextlib.contextmanager
    def asked(self, record: Record, previous: bytes, number: int) -> Iterator[Callable[[], Confirmation]]:
        """Ask for a signature, until the block ends; what is given waits for it.

        Raises:
            HsmError: The request cannot be written; and from what is given: the custodian said no, or nothing, or the
                answer is not theirs.
        """
        request = Request(self.name, number, previous, record)
        stem = f"{number}-{record.phase.value}-{self.name}-{secrets.token_hex(4)}"
        path = self.folder / (stem + REQUEST)
        answer = answer_path(path)
        write_new(path, request.to_bytes())
        try:
            self.tell(path)
            yield lambda: self._waited(request, answer)
        finally:
            path.unlink(missing_ok=True)
            answer.unlink(missing_ok=True)

    def _waited(self, request: Request, answer: Path) -> Confirmation:
        until = self.monotonic() + self.seconds
        while not _is_whole(answer):
            if self.monotonic() >= until:
                what = f"{self.name} has not confirmed within {self.seconds:g} s"
                if answer.exists():
                    what = f"{answer} is not written to its end: {what}"
                raise HsmError(what, Trouble.REFUSED, "--wait SECONDS waits longer")
            self.sleep(SECONDS_BETWEEN_LOOKS)
        fields = _fields(answer, _ANSWER_KIND)
        if fields.get("refused") is True:
            raise HsmError(f"{self.name} does not confirm this", Trouble.REFUSED)
        try:
            signature = bytes.fromhex(fields["signature"])
        except (KeyError, TypeError, ValueError):
            raise HsmError(f"{answer}: it is no answer of a custodian", Trouble.FORGED) from None
        if not good(self.public_key, signature, request.statement):
            raise HsmError(
                f"{answer}: it is not {self.name}'s signature of this request",
                Trouble.FORGED,
                f"{self.name} must confirm this very request, by the key that the log knows",
            )
        return Confirmation(self.name, signature)


def answer_path(request: Path) -> Path:
    """Where the answer to a request is expected."""
    return request.with_name(request.name.removesuffix(REQUEST) + ANSWER)


def _is_whole(path: Path) -> bool:
    """Whether a file is there to its end, a line's: it may come on a stick, which is filled slowly."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError:
        return False
    return content.endswith(b"\n") or len(content) > LONGEST


def following(request: Request, path: Path) -> tuple[Path, Request] | None:
    """The next request to the same custodian of the same ceremony, if it is there: that of what came of it."""
    for other in sorted(path.parent.glob(f"*-{request.custodian}-*{REQUEST}")):
        if other == path or answer_path(other).exists():
            continue
        try:
            found = Request.read(other)
        except HsmError:
            continue  # not whole yet, or none at all: what is asked for may be beside it
        if found.custodian == request.custodian and _ends(found, request):
            return other, found
    return None


def _ends(outcome: Request, intent: Request) -> bool:
    """Whether it is about what came of the very act that was confirmed, and next in the log."""
    was, now = intent.record, outcome.record
    same_tokens = was.tokens == now.tokens or now.action is Action.INITIALIZE  # which gives another serial number
    return (
        (now.phase, now.ceremony, outcome.number) == (Phase.DONE, intent.number, intent.number + 1)
        and (now.action, now.key) == (was.action, was.key)
        and same_tokens
    )


def _answer(custodian: str, said: Mapping[str, Any]) -> bytes:
    return audit.canonical({"custodian": custodian, "kind": _ANSWER_KIND, "version": _VERSION, **said}) + b"\n"


def _fields(path: Path, kind: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise HsmError(f"{path}: it cannot be read: {error.strerror}", Trouble.NOT_FOUND) from None
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.get("kind") != kind or fields.get("version") != _VERSION:
        raise HsmError(f"{path}: it is no {kind} of version {_VERSION}", Trouble.FORGED)
    return fields

"""The check of the checkpoints, one at a time, and what they say together of every chain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from ownkey_server.domain import audit
from ownkey_server.domain.audit_documents import (
    NO_CHECKPOINT,
    Checkpoint,
    DocumentInvalid,
    SignedHead,
    read_signed_document,
)
from ownkey_server.domain.audit_findings import Finding, Findings, Kind

GoodSignature = Callable[[bytes, bytes], bool]


class CheckpointChecker:
    """Checks that checkpoints follow each other without a gap, and gathers what they say.

    Args:
        good: Whether a signature fits a statement.
        findings: Where what is found goes.

    Attributes:
        heads: The furthest signed head of each writer, and the checkpoint that says so.
        sealed: Up to where each writer's chain was sealed.
        removed: Up to where retention may have removed each writer's records.
        writers: The highest number of a writer.
        number: The last checkpoint.
        digest: SHA-256 of its description.
        time: When it was made.
    """

    def __init__(self, good: GoodSignature, findings: Findings) -> None:
        self._good = good
        self._findings = findings
        self.heads: dict[int, tuple[SignedHead, Checkpoint]] = {}
        self.sealed: dict[int, int] = {}
        self.removed: dict[int, int] = {}
        self.writers = 0
        self.number = 0
        self.digest = NO_CHECKPOINT
        self.time: datetime | None = None

    def feed(
        self, number: int, description: bytes, signature: bytes | None, time: int | None = None
    ) -> Checkpoint | None:
        """Check the next one; gives it when it is signed, whether or not it is in its place.

        Args:
            number: Where it stands.
            description: What was signed.
            signature: The signature; None to go by the next one's, which covers this one's hash.
            time: The column that says the same as the description, where there is one.
        """
        if number > self.number + 1:
            text = "no checkpoint is there, and their numbers have no gaps"
            self._findings.add(Finding(Kind.MISSING_CHECKPOINT, 0, self.number + 1, text, last=number - 1))
        follows = number == self.number + 1
        checkpoint = self._signed(number, description, signature)
        if checkpoint is not None:
            if checkpoint.number != number or (time is not None and checkpoint.time != time):
                self._forged(number, "its number or time is not what it was signed with")
                checkpoint = None
            elif follows and self.digest and checkpoint.previous != self.digest:
                self._forged(number, "it was made after another checkpoint than the one before it")
        self.number = number
        # After a forged one the next cannot be compared: what was there is not known.
        self.digest = hashlib.sha256(description).digest() if checkpoint else b""
        if checkpoint is not None:
            self.time = audit.from_microseconds(checkpoint.time)
            self.learn(checkpoint)
        return checkpoint

    def learn(self, checkpoint: Checkpoint) -> None:
        """Take in what a signed checkpoint says of the chains."""
        for head in checkpoint.heads:
            known = self.heads.get(head.writer)
            if known is None or known[0].sequence <= head.sequence:
                self.heads[head.writer] = (head, _without_lists(checkpoint))
        for mark in checkpoint.sealed:
            self.sealed[mark.writer] = max(mark.sequence, self.sealed.get(mark.writer, 0))
        for mark in checkpoint.removed:
            self.removed[mark.writer] = max(mark.sequence, self.removed.get(mark.writer, 0))
        self.writers = max(self.writers, checkpoint.writers)

    def _signed(self, number: int, description: bytes, signature: bytes | None) -> Checkpoint | None:
        if signature is not None and not self._good(signature, audit.checkpoint_statement(description)):
            self._forged(number, "its signature is not of a key that is trusted")
            return None
        try:
            return Checkpoint.from_bytes(description)
        except DocumentInvalid as error:
            self._forged(number, f"it is signed, but {error}")
            return None

    def _forged(self, number: int, explanation: str) -> None:
        self._findings.add(Finding(Kind.FORGED_CHECKPOINT, 0, number, explanation))


class KnownCheckpoint:
    """A checkpoint that an auditor kept where nobody who can change the log can reach it.

    Args:
        text: What ``ownkey audit checkpoint`` printed.
        good: Whether a signature fits a statement.

    Raises:
        DocumentInvalid: It is none, or its signature is not of a key that is trusted.
    """

    def __init__(self, text: bytes, good: GoodSignature) -> None:
        self._description, signature = read_signed_document(text)
        if not good(signature, audit.checkpoint_statement(self._description)):
            raise DocumentInvalid("its signature is not of a key that is trusted")
        self.checkpoint = Checkpoint.from_bytes(self._description)

    def compare(self, number: int, description: bytes, findings: Findings) -> None:
        """Compare the log's checkpoint of the same number."""
        if number == self.checkpoint.number and description != self._description:
            text = "it is another than the one that was kept: the log was rolled back, and went on from there"
            findings.add(Finding(Kind.ROLLED_BACK, 0, number, text, self._time))

    def require_reached(self, number: int, findings: Findings) -> None:
        """Tell when the log's last checkpoint is an earlier one."""
        if number < self.checkpoint.number:
            text = f"the log ends before checkpoint {self.checkpoint.number}, which was kept: it was rolled back"
            last = self.checkpoint.number
            findings.add(Finding(Kind.ROLLED_BACK, 0, number + 1, text, self._time, last))

    @property
    def _time(self) -> datetime:
        return audit.from_microseconds(self.checkpoint.time)


def _without_lists(checkpoint: Checkpoint) -> Checkpoint:
    """Only what a finding tells of it: the lists of a thousand checkpoints are not kept in memory."""
    return Checkpoint(checkpoint.number, checkpoint.time, checkpoint.previous, checkpoint.writers, (), (), ())

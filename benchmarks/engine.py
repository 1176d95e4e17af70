"""The container's engine against its limits: raw AES-GCM, Amazon's library, files, and seeks.

Each figure is a ratio of two measurements of the same rounds, one after the other, so that a slow minute slows both;
given is the median over the rounds. In memory, time is the thread's on its core; with files and seeks, the clock's.

Run alone, it prints a table: `python benchmarks/engine.py [--quick]`.
"""

from __future__ import annotations

import argparse
import io
import os
import queue
import random
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey.container import Decryptor, EncryptedDataKey, Encryptor, HeaderReader, RangeDecryptor, derivation

MIB = 1 << 20
FRAME = 256 * 1024
PIECE = MIB
FRAME_OVERHEAD = 32
DATA_KEY = secrets.token_bytes(32)
CONTEXT = {"ownkey:tenant": "acme", "ownkey:asset-class": "phone_recording", "ownkey:asset-id": "benchmark"}
ENTRY = EncryptedDataKey("ownkey-embedded", b"acme-main" + bytes(20), bytes(48))

Result = dict[str, Any]
Job = Callable[[], None]


def results(quick: bool) -> list[Result]:
    """All figures; `quick` takes less content and fewer rounds."""
    rounds = 3 if quick else 7
    content = random.Random(1).randbytes(MIB) * (64 if quick else 512)
    return [
        *against_raw(content, rounds),
        *against_amazon(content[: (16 if quick else 64) * MIB], rounds),
        *files(content[: (64 if quick else 256) * MIB], rounds),
        *seeks(content[: (32 if quick else 256) * MIB], 100 if quick else 1000),
    ]


def encryptor(frame_length: int = FRAME) -> Encryptor:
    return Encryptor(DATA_KEY, encryption_context=CONTEXT, encrypted_data_keys=[ENTRY], frame_length=frame_length)


def seconds(job: Job, clock: Callable[[], float]) -> float:
    start = clock()
    job()
    return clock() - start


def interleaved(
    jobs: dict[str, Job],
    rounds: int,
    clock: Callable[[], float] = time.thread_time,
    before_each: Job = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every job in every round; one round before them counts for nothing."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            before_each()
            spent = seconds(job, clock)
            if turn:
                taken[name].append(spent)
    return taken


def ratio(
    name: str, baseline: str, job: list[float], base: list[float], aim: float, unit: str = "of the baseline's rate"
) -> Result:
    value = statistics.median(b / j for j, b in zip(job, base, strict=True))
    return {
        "name": name,
        "ratio": round(value, 3),
        "unit": unit,
        "baseline": baseline,
        "runs": len(job),
        "aim": aim,
        "met": value >= aim,
    }


class Memory:
    """The same content and the same reused output for the engine and for the bare cipher."""

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.out = bytearray((PIECE // FRAME + 2) * (FRAME + 64))
        one = encryptor()
        self.object = bytearray(one.header.to_bytes())
        for piece in self.pieces(self.content):
            self.object += one.update(piece)
        self.object += one.finish()
        self.header = one.header
        self.cipher = AESGCM(secrets.token_bytes(32))
        self.message_key = derivation.open_message(DATA_KEY, one.header)

    def pieces(self, data: memoryview) -> list[memoryview]:
        return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]

    def encrypt(self) -> None:
        one = encryptor()
        for piece in self.pieces(self.content):
            one.update_into(piece, self.out)
        one.finish_into(self.out)

    def encrypt_to_bytes(self) -> None:
        one = encryptor()
        for piece in self.pieces(self.content):
            one.update(piece)
        one.finish()

    def decrypt(self) -> None:
        reader = HeaderReader()
        header = reader.feed(memoryview(self.object)[:1000])
        assert header is not None
        decryptor = Decryptor(header, DATA_KEY)
        for piece in self.pieces(memoryview(self.object)[header.length :]):
            decryptor.update_into(piece, self.out)
        decryptor.finish()

    def raw_encrypt(self) -> None:
        """The cipher alone, over the same pieces into the same places of the same output."""
        nonce, aad = bytearray(12), bytes(75)
        with memoryview(self.out) as out:
            for piece in self.pieces(self.content):
                for number in range(PIECE // FRAME):
                    start = number * (FRAME + FRAME_OVERHEAD)
                    frame = piece[number * FRAME : (number + 1) * FRAME]
                    self.cipher.encrypt_into(nonce, frame, aad, out[start : start + FRAME + 16])

    def raw_decrypt(self) -> None:
        """The cipher alone, over the object's own frames; all but the final one, which has another layout."""
        nonce, label = bytearray(12), self.header.message_id + b"AWSKMSEncryptionClient Frame"
        with memoryview(self.object) as message, memoryview(self.out) as out:
            start = self.header.length
            for number in range(1, len(self.content) // FRAME):
                nonce[8:] = number.to_bytes(4)
                aad = label + number.to_bytes(4) + FRAME.to_bytes(8)
                place = out[number % 4 * FRAME :][:FRAME]
                self.message_key.decrypt_into(nonce, message[start + 16 : start + FRAME + FRAME_OVERHEAD], aad, place)
                start += FRAME + FRAME_OVERHEAD


def against_raw(content: bytes, rounds: int) -> list[Result]:
    memory = Memory(content)
    baseline, decrypting = "AESGCM.encrypt_into, same bytes and buffers, one core", "AESGCM.decrypt_into, the same way"
    jobs = {
        "raw": memory.raw_encrypt,
        "encrypt": memory.encrypt,
        "to bytes": memory.encrypt_to_bytes,
        "decrypt": memory.decrypt,
        "raw decrypt": memory.raw_decrypt,
    }
    taken = interleaved(jobs, rounds)
    raw = taken["raw"]
    return [
        ratio("engine in memory, frames of 256 KiB", baseline, taken["encrypt"], raw, 0.9),
        ratio("engine in memory, decrypting", decrypting, taken["decrypt"], taken["raw decrypt"], 0.9),
        ratio("engine in memory, each piece to fresh bytes", baseline, taken["to bytes"], raw, 0.5),
    ]


def against_amazon(content: bytes, rounds: int) -> list[Result]:
    """Amazon's library at its default, and at the best setting that was found for it."""
    wrapping_key = WrappingKey(
        WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, secrets.token_bytes(32), EncryptionKeyType.SYMMETRIC
    )
    master_key = RawMasterKey(provider_id="benchmark", key_id="key", wrapping_key=wrapping_key)
    client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)

    def amazon(**settings: int) -> None:
        with client.stream(
            mode="e",
            source=io.BytesIO(content),
            key_provider=master_key,
            encryption_context=dict(CONTEXT),
            algorithm=Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
            **settings,
        ) as stream:
            if settings:
                stream.line_length = MIB
            for _ in stream:
                pass

    memory = Memory(content)
    jobs = {"default": amazon, "tuned": lambda: amazon(frame_length=MIB), "ours": memory.encrypt}
    taken = interleaved(jobs, min(rounds, 5))
    times = "times the baseline's rate"
    return [
        ratio(
            "engine in memory, against Amazon's library",
            "aws-encryption-sdk, suite 0x0478, its default of 4 KiB frames",
            taken["ours"],
            taken["default"],
            15,
            times,
        ),
        ratio(
            "engine in memory, against Amazon's library tuned",
            "aws-encryption-sdk, suite 0x0478, frames of 1 MiB, line_length of 1 MiB",
            taken["ours"],
            taken["tuned"],
            3,
            times,
        ),
    ]


class Files:
    """From a file in the page cache to a new file, which stays in the page cache: nothing waits for the disk."""

    def __init__(self, content: bytes, folder: Path) -> None:
        self.source, self.target = folder / "content", folder / "object"
        self.source.write_bytes(content)
        self.size = len(content)
        self.room = (PIECE // FRAME + 2) * (FRAME + 64)

    def begin(self) -> None:
        """Nothing of an earlier round is left to be removed or written back."""
        self.target.unlink(missing_ok=True)
        os.sync()

    def one_thread(self) -> None:
        one, piece, out = encryptor(), bytearray(PIECE), bytearray(self.room)
        with self.source.open("rb", buffering=0) as source, self.target.open("xb", buffering=0) as target:
            target.write(one.header.to_bytes())
            with memoryview(piece) as read, memoryview(out) as made:
                while count := source.readinto(piece):
                    target.write(made[: one.update_into(read[:count], made)])
                target.write(made[: one.finish_into(made)])

    def with_a_writer(self) -> None:
        """While one piece is written, the next is read and encrypted: neither holds the interpreter's lock."""
        one, piece = encryptor(), bytearray(PIECE)
        free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        for _ in range(3):
            free.put(bytearray(self.room))
        with self.source.open("rb", buffering=0) as source, self.target.open("xb", buffering=0) as target:
            os.posix_fallocate(target.fileno(), 0, self.size)

            def write() -> None:
                target.write(one.header.to_bytes())
                while item := full.get():
                    made, count = item
                    with memoryview(made) as view:
                        target.write(view[:count])
                    free.put(made)

            writer = threading.Thread(target=write)
            writer.start()
            with memoryview(piece) as read:
                while count := source.readinto(piece):
                    out = free.get()
                    full.put((out, one.update_into(read[:count], out)))
            out = free.get()
            full.put((out, one.finish_into(out)))
            full.put(None)
            writer.join()


def files(content: bytes, rounds: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="ownkey-benchmark-") as folder:
        memory, on_disk = Memory(content), Files(content, Path(folder))
        jobs = {"raw": memory.raw_encrypt, "plain": on_disk.one_thread, "writer": on_disk.with_a_writer}
        taken = interleaved(jobs, rounds, time.perf_counter, on_disk.begin)
    baseline = "AESGCM.encrypt_into in memory, same bytes"
    name = "file to a new file in the page cache"
    return [
        ratio(f"{name}, one thread", baseline, taken["plain"], taken["raw"], 0.4),
        ratio(f"{name}, another thread writes", baseline, taken["writer"], taken["raw"], 0.4),
    ]


def seeks(content: bytes, count: int) -> list[Result]:
    """64 KiB anywhere in an object: header parsed, commitment and tag checked, the frames that hold it opened.

    The final frame, which proves the object's length, is opened apart. It is full here: the most that it can cost.
    """
    message = memoryview(bytes(Memory(content).object))
    length = 64 * 1024
    order = random.Random(2)
    opening, proving, reading = [], [], []
    for _ in range(count):
        offset = order.randrange(len(content) - length)
        times = [time.perf_counter()]
        header = HeaderReader().feed(message[:1024])
        assert header is not None
        ranges = RangeDecryptor(header, DATA_KEY, object_size=len(message))
        times.append(time.perf_counter())
        final = ranges.final_frame
        ranges.open_final_frame(message[final.offset : final.offset + final.length])
        times.append(time.perf_counter())
        span = ranges.span(offset, length)
        found = ranges.decrypt(offset, length, message[span.offset : span.offset + span.length])
        times.append(time.perf_counter())
        assert len(found) == length
        for kept, (start, end) in zip((opening, proving, reading), pairwise(times), strict=True):
            kept.append(end - start)
    assert found == content[offset : offset + length]
    what = f"64 KiB of an object of {len(content) // MIB} MiB in memory, frames of 256 KiB"
    opened_and_read = [a + b for a, b in zip(opening, reading, strict=True)]
    with_proof = [a + b for a, b in zip(opened_and_read, proving, strict=True)]
    return [
        duration("seek: open the object, read", what, opened_and_read),
        duration("seek: open the object, prove its length, read", what, with_proof),
        duration("seek: read, the object being open", what, reading),
    ]


def duration(name: str, baseline: str, taken: list[float]) -> Result:
    value = statistics.median(taken) * 1e6
    return {
        "name": name,
        "value": round(value, 1),
        "unit": "µs",
        "baseline": baseline,
        "runs": len(taken),
        "aim": 100,
        "met": value < 100,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less content, fewer rounds")
    for result in results(parser.parse_args().quick):
        value, verdict = result.get("ratio", result.get("value")), "met" if result["met"] else "MISSED"
        against = f"aim {result['aim']:>4}  {verdict:6}  {result['baseline']}"
        print(f"{result['name']:56} {value:>8} {result['unit']:26} {against}")


if __name__ == "__main__":
    main()

"""What can be wrong with an object: each case has one fault, and the error that must come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vectors.container.independent import Writer, lp16, u16, u32
from vectors.container.material import content, fixed, writer


def with_free_iv(by: Writer) -> bytes:
    """The frame's nonce is another than its number says, and everything is authentic under that nonce."""
    return by.header + by.frame(1, content(16), nonce=bytes(11) + b"\x09") + by.final(2, b"end")


def header_cases() -> Iterator[tuple[str, str, str, Writer, bytes | None]]:
    """Name, error, about, the writer, the header unless it is the writer's."""
    pair = lp16(b"k") + lp16(b"v")
    entry = b"".join(lp16(part) for part in (b"test", b"key-1", b"wrapped"))
    for name, error, about, fields in (
        ("version-1", "UnsupportedFormat", "Version 1 of the format.", {"start": b"\x01\x80\x00"}),
        ("signed-suite", "UnsupportedFormat", "Suite 0x0578, with signature.", {"start": b"\x02\x05\x78"}),
        ("unframed", "UnsupportedFormat", "Content type 1: not framed.", {"framing": b"\x01"}),
        ("framing-unknown", "UnsupportedFormat", "Content type 3.", {"framing": b"\x03"}),
        ("frames-of-4-gib", "LimitExceeded", "A frame length of 2^32 - 1.", {"raw_frame_length": 2**32 - 1}),
        ("frames-of-no-bytes", "LimitExceeded", "A frame length of 0.", {"raw_frame_length": 0}),
        ("65535-wrapped-keys", "LimitExceeded", "A count of 65,535 wrapped keys.", {"raw_entries": u16(65535) + entry}),
        ("17-wrapped-keys", "LimitExceeded", "One more than a reader takes.", {"raw_entries": u16(17) + 17 * entry}),
        ("no-wrapped-key", "LimitExceeded", "A count of 0.", {"raw_entries": u16(0)}),
        ("key-twice", "HeaderInvalid", "The same key twice in the context.", {"raw_context": u16(2) + pair + pair}),
        (
            "context-not-sorted",
            "HeaderInvalid",
            "Keys in another order than their bytes'.",
            {"raw_context": u16(2) + lp16(b"z") + lp16(b"") + pair},
        ),
        (
            "context-not-utf-8",
            "HeaderInvalid",
            "A value of bytes ff.",
            {"raw_context": u16(1) + lp16(b"k") + lp16(b"\xff")},
        ),
        ("context-too-short", "HeaderInvalid", "A count of 2 with one pair.", {"raw_context": u16(2) + pair}),
        ("context-too-long", "HeaderInvalid", "A byte after the last pair.", {"raw_context": u16(1) + pair + b"\x00"}),
        (
            "context-of-no-pairs",
            "HeaderInvalid",
            "A count of 0, where no bytes should be.",
            {"raw_context": u16(0)},
        ),
        (
            "provider-id-not-utf-8",
            "HeaderInvalid",
            "A provider id of bytes ff.",
            {"raw_entries": u16(1) + lp16(b"\xff") + lp16(b"key-1") + lp16(b"wrapped")},
        ),
    ):
        yield name, error, about, writer(name, **fields), None
    name = "header-of-64-kib"
    yield (
        name,
        "LimitExceeded",
        "A wrapped key of 65,000 bytes, and more.",
        writer(name, entries=((b"p", b"i", bytes(65000)), (b"p", b"i", bytes(600)))),
        None,
    )
    for name, error, about, at in (
        ("context-changed", "HeaderTampered", "A byte of a value of the context.", -1),
        ("wrapped-key-changed", "HeaderTampered", "A byte of a wrapped key.", -1),
        ("header-tag-changed", "HeaderTampered", "A byte of the header's tag.", -1),
        ("message-id-changed", "CommitmentMismatch", "A byte of the message id.", 3),
        ("commitment-changed", "CommitmentMismatch", "A byte of the commitment.", -1),
        ("other-frame-length", "HeaderTampered", "Frames of 17 bytes in place of 16.", -1),
    ):
        by = writer(name)
        body = by.header_body
        places = {
            "context-changed": body.index(b"phone_recording"),
            "wrapped-key-changed": body.index(by.entries[0][2]),
            "header-tag-changed": len(body),
            "commitment-changed": len(body) - 32,
            "other-frame-length": len(body) - 33,
        }
        header = bytearray(by.header)
        header[places.get(name, at)] ^= 1
        yield name, error, about, by, bytes(header)
    name, about = "foreign-commitment", "Authentic, but commits to another data key."
    yield name, "CommitmentMismatch", about, writer(name, commitment=fixed("foreign commitment")), None


def body_cases(by: Writer) -> Iterator[tuple[str, str, str, bytes, int]]:
    """Name, error, about, everything after the header, how much content may be released."""
    text = content(40)
    one, two, last = by.frames(text)
    foreign = replace(by, message_id=fixed("message id of another")).frames(text)
    again = by.message(text)
    early = one + by.final(2, b"end") + by.frame(3, text[:16])
    renumbered = u32(1) + two[4:12] + u32(1) + two[16:]
    whole = one + two + last

    tampered, disordered, truncated, trailing = "FrameTampered", "FrameOutOfOrder", "Truncated", "TrailingData"
    yield "ciphertext-changed", tampered, "A byte of the second frame.", one + flip(two, 20) + last, 16
    yield "tag-changed", tampered, "A byte of the second frame's tag.", one + flip(two, len(two) - 1) + last, 16
    yield "iv-changed", tampered, "A byte of the second frame's nonce.", one + flip(two, 15) + last, 16
    yield "number-changed", disordered, "The second frame says it is the third.", one + flip(two, 3) + last, 16
    yield "final-length-less", tampered, "The final frame says 7 bytes, not 8.", one + two + flip(last, 23, 15), 32
    yield "final-length-more", "LimitExceeded", "The final frame says 17.", one + two + flip(last, 23, 8 ^ 17), 32
    yield "swapped", disordered, "The second frame before the first.", two + one + last, 0
    yield "dropped", disordered, "The second frame is missing.", one + last, 16
    yield "repeated", disordered, "The first frame twice.", one + one + two + last, 16
    yield "first-dropped", disordered, "The first frame is missing.", two + last, 0
    yield "renumbered", tampered, "The second frame as the first.", renumbered + last, 0
    yield "no-final-frame", truncated, "It ends at a frame's edge.", one + two, 32
    yield "no-frame", truncated, "The header alone.", b"", 0
    yield "cut-in-a-frame", truncated, "It ends inside the second frame.", one + two[:20], 16
    yield "cut-in-the-final-frame", truncated, "The last byte is missing.", whole[:-1], 32
    yield "byte-after-the-end", trailing, "A byte after the final frame.", whole + b"\x00", 40
    yield "message-after-the-end", trailing, "The message again after its end.", whole + again, 40
    yield "frame-after-the-end", trailing, "A frame after the final one.", early, 19
    yield "frame-of-another-message", tampered, "Another's, of the same data key.", one + foreign[1] + last, 16
    yield "body-of-another-message", tampered, "Another's, of the same data key.", b"".join(foreign), 0
    yield "final-as-regular", tampered, "A full final frame, written as a regular one.", as_regular(by, text), 16
    yield "regular-as-final", tampered, "A regular frame, written as the final one.", one + as_final(two), 16


def flip(frame: bytes, at: int, change: int = 1) -> bytes:
    return frame[:at] + bytes([frame[at] ^ change]) + frame[at + 1 :]


def as_final(frame: bytes) -> bytes:
    return b"\xff\xff\xff\xff" + frame[:16] + u32(16) + frame[16:]


def as_regular(by: Writer, text: bytes) -> bytes:
    one, last = by.frames(text[:32])
    return one + last[4:20] + last[24:] + by.final(3, b"")

"""What is fuzzed: each target takes any bytes, and holds what it tests to one property.

Only the errors that are documented may come out, and what was parsed must be written again as the same bytes, so that
no two byte strings mean one thing. Seeds are valid inputs, for a fuzzer to change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pydantic

from ownkey import container
from ownkey.container import ContainerError, Decryptor, HeaderReader, RangeDecryptor
from ownkey.emergency import is_emergency
from ownkey.media_messages import chunk_of, chunk_prefix
from ownkey.v1 import admin_service_pb2
from ownkey.wrapped_key import WrappedKey, WrappedKeyInvalid
from ownkey_server import settings
from ownkey_server.domain.errors import InvalidRequest, Unauthenticated
from ownkey_server.rpc import forwarded, page_tokens, tokens, wire
from ownkey_server.rpc.jwks import parse_keys
from ownkey_server.rpc.reloading import UnusableFile
from ownkey_server.settings.access import CertificateRules
from ownkey_server.storage import tenants_file
from ownkey_server.storage.documents import PolicyTable
from ownkey_server.storage.grants import grants_json, grants_of
from ownkey_server.storage.tenants_file import TenantsFileError
from vectors.container.independent import Writer

DATA_KEY = bytes(range(32))
MESSAGE_ID = bytes(range(32, 64))
# Bytes that differ, over several frames: what is left out, swapped or doubled shows.
FRAME = 16
CONTENT = bytes(range(100, 156))
MESSAGE = Writer(DATA_KEY, MESSAGE_ID, frame_length=FRAME).message(CONTENT)
TEMPLATES = resources.files("ownkey_server") / "templates"
RULES = CertificateRules(spiffe_trust_domains=["example.org"], dns_suffixes=["example.org"])
_folder = Path(tempfile.mkdtemp(prefix="ownkey-fuzz-"))


@dataclass(frozen=True)
class Target:
    """One thing that is fuzzed."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def _header() -> bytes:
    return Writer(DATA_KEY, MESSAGE_ID).header


def _moved() -> list[bytes]:
    """The object with frames left out, swapped and doubled: what chance would hardly make."""
    writer = Writer(DATA_KEY, MESSAGE_ID, frame_length=FRAME)
    one, two, three, final = writer.frames(CONTENT)
    orders = ([two, one, three, final], [one, three, final], [one, two, two, three, final], [two, three, final])
    orders += ([one, two, three], [final], [one, two, three, final, final], [final, one, two, three])
    return [writer.header + b"".join(order) for order in orders]


def header(data: bytes) -> None:
    """A header is read from any slices alike, and written again as the same bytes."""
    step = 1 + (data[0] % 7 if data else 0)
    reader = HeaderReader()
    found, at = None, 0
    try:
        while found is None and at < len(data):
            found = reader.feed(data[at : at + step])
            at += step
    except ContainerError:
        return
    if found is not None:
        assert data.startswith(found.to_bytes())
        assert HeaderReader().feed(data) == found


def decryptor(data: bytes) -> None:
    """What is not the object that was written gives nothing that was not in it, and is never taken for whole."""
    released, whole = bytearray(), False
    try:
        reader = HeaderReader()
        found = reader.feed(data)
        if found is None:
            return
        opening = Decryptor(found, DATA_KEY)
        # In slices, so that frames are released before an error that comes after them.
        step = 1 + data[-1] % 61
        for at in range(0, len(reader.rest), step):
            released += opening.update(reader.rest[at : at + step])
        opening.finish()
        whole = True
    except ContainerError:
        pass
    if whole:
        assert bytes(released) == CONTENT, "taken for whole, and is not what was written"
        assert data == MESSAGE, "other bytes, and taken for the object"
    else:
        assert CONTENT.startswith(released), "released what is not the beginning of what was written"
        assert data != MESSAGE, "the object itself was refused"


def ranges(data: bytes) -> None:
    """A range read of anything fails as documented, or gives what the object holds there, and all of it."""
    try:
        reader = HeaderReader()
        found = reader.feed(data)
        if found is None:
            return
        opening = RangeDecryptor(found, DATA_KEY, object_size=len(data))
        span = opening.final_frame
        opening.open_final_frame(data[span.offset : span.offset + span.length])
        for start, length in ((0, len(CONTENT)), (3, 20), (FRAME - 1, 2), (FRAME, FRAME), (len(CONTENT) - 5, 5)):
            span = opening.span(start, length)
            given = opening.decrypt(start, length, data[span.offset : span.offset + span.length])
            assert given == CONTENT[start : start + length], "not what the object holds there"
    except ContainerError:
        assert data != MESSAGE, "the object itself was refused"


def wrapped_key(data: bytes) -> None:
    """A wrapped key is written again as the same bytes."""
    try:
        found = WrappedKey.from_bytes(data)
    except WrappedKeyInvalid:
        return
    assert found.to_bytes() == data


def settings_file(data: bytes) -> None:
    """Settings are loaded, or every mistake is told in lines."""
    path = _folder / "ownkey.toml"
    path.write_bytes(data)
    try:
        settings.require_known_callers(settings.load(path))
    except settings.SettingsError:
        return


def tenants(data: bytes) -> None:
    """A tenants file is refused, or means the same when it is written again."""
    kinds = {"embedded": "embedded", "hsm": "pkcs11"}
    try:
        found = tenants_file.parse(data.decode("utf-8", "replace"), "fuzz", kinds)
    except TenantsFileError:
        return
    assert tenants_file.parse(tenants_file.render(found), "again", kinds) == found


def policy(data: bytes) -> None:
    """A policy out of JSON is refused, or means the same when it is written again."""
    try:
        found = PolicyTable.model_validate_json(data)
    except pydantic.ValidationError:
        return
    assert PolicyTable.model_validate_json(found.model_dump_json()) == found


def grants(data: bytes) -> None:
    """Grants are refused, or mean the same when they are written again."""
    try:
        found = grants_of(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert set(grants_of(grants_json(found))) == set(found)


def peeked(data: bytes) -> None:
    """A field of anything is a text."""
    found = PEEK(data)
    assert found.looked_at <= wire.MAX_FIELDS
    for number in (1, 4, 15):
        assert isinstance(found.text(number), str)


def page_token(data: bytes) -> None:
    """A token that was not given is refused."""
    request = admin_service_pb2.ListTenantsRequest(page_token=data.decode("latin-1"))
    try:
        position = page_tokens.decode(request, str, "")
    except InvalidRequest:
        return
    plain = admin_service_pb2.ListTenantsRequest()
    assert not request.page_token or page_tokens.decode(request, str, "") == position
    assert isinstance(page_tokens.encode(plain, position), str)


def callee(data: bytes) -> None:
    """Whatever is dialled is an emergency call, or is none; with a plus before it, it stays what it is."""
    text = data.decode("utf-8", "replace")
    assert is_emergency(text, ("GB",)) in (True, False)
    assert is_emergency(text, ()) or not is_emergency(text, ("GB",)), "every country's numbers hold each country's"


def chunk(data: bytes) -> None:
    """A message with a chunk alone is read without being copied; what is written is what is read."""
    found = chunk_of(data)
    if found is not None:
        again = chunk_of(chunk_prefix(len(found)) + bytes(found))
        assert again == found


def forwarded_header(data: bytes) -> None:
    """A proxy's header names one principal of the domain, or nobody."""
    try:
        found = forwarded.principal(data.decode("latin-1"), RULES)
    except Unauthenticated:
        return
    assert found.startswith("spiffe://example.org/") or found == "example.org" or found.endswith(".example.org")


def token(data: bytes) -> None:
    """What says who bears it, before anything is verified, is a token or is refused."""
    try:
        head, claims = tokens.unverified(data.decode("latin-1"))
    except Unauthenticated:
        return
    assert isinstance(head, dict)
    assert isinstance(claims, dict)


def key_set(data: bytes) -> None:
    """A key set has keys that can verify, or is none."""
    try:
        found = parse_keys(data, "fuzz")
    except UnusableFile:
        return
    assert all(key.key_type in ("RSA", "EC", "OKP") for key in found.values())


PEEK = wire.Peek(1, 4, 15)
_POLICY = b'{"default":"deny","rules":[{"name":"a","use":"key:main","asset_classes":["team_chat"],"users":["u"]}]}'
_JWT = b"eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJhIiwic3ViIjoiYiIsImV4cCI6MX0.c2lnbmF0dXJl"
_JWKS = (
    b'{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},'
    b'{"kty":"oct","kid":"b","k":"AAAA"}]}'
)
_WRAPPED = WrappedKey(
    "tenants/acme/keys/main", (container.EncryptedDataKey("ownkey-embedded", b"acme-main\x00\x00", bytes(48)),)
).to_bytes()

TARGETS = {
    target.name: target
    for target in (
        Target("header", header, [_header(), MESSAGE]),
        Target("decryptor", decryptor, [MESSAGE, *_moved()]),
        Target("ranges", ranges, [MESSAGE, *_moved()]),
        Target("wrapped_key", wrapped_key, [_WRAPPED]),
        Target("settings_file", settings_file, [(TEMPLATES / "ownkey.toml").read_bytes()]),
        Target("tenants", tenants, [(TEMPLATES / "tenants.toml").read_bytes()]),
        Target("policy", policy, [_POLICY]),
        Target("grants", grants, [b'[{"role":"data","tenant":"acme","methods":["Unwrap"]}]']),
        Target("peeked", peeked, [admin_service_pb2.ListTenantsRequest(page_token="a").SerializeToString()]),
        Target(
            "page_token",
            page_token,
            [page_tokens.encode(admin_service_pb2.ListTenantsRequest(), "acme").encode()],
        ),
        Target("callee", callee, [b"tel:+44-999", b"sip:112@example.org", b"urn:service:sos.fire", b"9,911#"]),
        Target("chunk", chunk, [chunk_prefix(3) + b"abc"]),
        Target("forwarded_header", forwarded_header, [b'Hash=0;Subject="CN=a";URI=spiffe://example.org/a;DNS=b']),
        Target("token", token, [_JWT]),
        Target("key_set", key_set, [_JWKS]),
    )
}

"""No secret is in anything that ownkey shows or keeps, in whatever way it might be written there."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from attacks.secrets import callers
from attacks.secrets.heaps import LOUD, Scene
from attacks.secrets.scenario import play
from ownkey_server.domain.errors import OwnkeyError
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.keystores import catalog
from ownkey_server.keystores.catalog import EmbeddedOptions, Pkcs11Options
from ownkey_server.secret_sources import SecretReference
from ownkey_server.settings import load
from support import server
from support.key_stores import CONTEXT, TIMEOUT
from support.needles import encodings, leaks
from support.rpc import asset, connected, pb
from support.softhsm import SoftHsm


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, softhsm: SoftHsm) -> Scene:
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return asyncio.run(play(tmp_path_factory.mktemp("secrets"), softhsm, postgres))


def test_no_secret_is_in_anything_that_a_server_or_a_command_shows_or_keeps(scene: Scene) -> None:
    assert leaks(scene.secrets, scene.heaps) == []


def test_it_was_worth_looking(scene: Scene) -> None:
    """Everything happened, and was seen: a heap without what must be in it would prove nothing."""
    log = scene.heaps["the server's output"]
    for told in (
        b"DEBUG",  # debug logging
        b"Fatal Python error: ",  # the crash; gRPC's threads may write between this and its name,
        b"Aborted",  # which is this
        b"Traceback (most recent call last)",  # a fault of our own
        b"grpc",
    ):
        assert told in log, told
    said = scene.heaps["what commands say"]
    assert b"must say where the secret is" in said
    assert b"the token has refused the PIN" in said
    assert b"the passphrase is wrong" in said
    assert len(scene.heaps["the audit's export"].splitlines()) > 30
    errors = scene.heaps["errors of calls"]
    for reason in (b"KEY_REVOKED", b"KEY_MISCONFIGURED", b"KEY_UNREACHABLE", b"CIPHERTEXT_INVALID", b"ASSET_MISMATCH"):
        assert reason in errors, reason
    for told in (b"HTTP 500", b"SMTP 535", b"taken by the mail server", b"taken by Apprise's service", b"names a host"):
        assert told in said + scene.heaps["what commands print"], told
    names = {"the passphrase", "the PIN", "the sealing key", "data key 3", "a recording's data key"}
    names |= {"the mail server's password", "the Apprise URL", "the second secret of webhook no"}
    assert names <= set(scene.secrets)
    assert all(len(secret) >= 32 for secret in scene.secrets.values())
    assert len(set(scene.secrets.values())) == len(scene.secrets)


def test_neither_a_token_nor_a_private_key_of_tls_is_in_anything_that_a_server_shows_or_keeps(tmp_path: Path) -> None:
    secrets, heaps = callers.call(tmp_path, LOUD)
    assert leaks(secrets, heaps) == []
    assert {"a bearer token", "the server's private key (number)", "the server's private key (text)"} <= secrets.keys()
    log = heaps["the server's output"]
    for told in (b"DEBUG", b"Fatal Python error: ", b"grpc", b"GenerateDataKey"):
        assert told in log, told
    for reason in (b"has expired", b"another audience", b"signature", b"not know", b"must be one bearer token"):
        assert reason in heaps["errors of calls"], reason
    said = heaps["what commands say"]
    for told in (b"must be the path of a file", b"must not hold a user", b"cannot be read", b"no unencrypted private"):
        assert told in said, (told, said)
    for name, secret in secrets.items():
        assert len(secret) >= 16, name
        for heap, content in heaps.items():
            assert leaks({name: secret}, {heap: content + secret}), (name, heap)


def test_each_secret_would_be_found_in_each_heap_in_each_way_that_it_may_be_written(scene: Scene) -> None:
    for heap, content in scene.heaps.items():
        planted = bytearray(content)
        expected = set()
        for name, secret in scene.secrets.items():
            for way, written in encodings(secret).items():
                planted += b"\n" + written + b"..."
                expected.add(f"{name} is in {heap} ({way})")
        planted += content
        assert expected <= set(leaks(scene.secrets, {heap: bytes(planted)}))


@pytest.mark.parametrize("part", [slice(None, 14), slice(-14, None)], ids=["beginning", "end"])
def test_a_secret_that_was_cut_short_would_be_found(part: slice) -> None:
    secret = bytes(range(0xA0, 0xC0))
    assert leaks({"it": secret}, {"heap": b"x" + secret[part].hex().encode()}) == ["it is in heap (hex)"]


@pytest.mark.parametrize("beside", [b"", b"'", b'"', b"'\""], ids=["alone", "single", "double", "both"])
@pytest.mark.parametrize("quote", [b"'", b'"', b"\\'"], ids=["single", "double", "escaped"])
def test_a_secret_with_a_quote_would_be_found_in_a_repr(quote: bytes, beside: bytes) -> None:
    """Whether repr escapes a quote depends on everything else that it shows."""
    secret = b"\xa0\xa1\xa2\xa3" + quote + bytes(range(0xB0, 0xC8)) + quote + b"\xa4\xa5\xa6\xa7"
    assert leaks({"it": secret}, {"heap": repr(beside + secret).encode()})


async def test_no_secret_is_in_the_repr_of_any_object_nor_in_any_error(
    tmp_path: Path, softhsm: SoftHsm, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OWNKEY_TEST_PASSPHRASE", "many stones in a little brook")
    token = "secrets-in-process"
    pin = "31415926535897932384"
    pin_file = softhsm.make_token(token, pin)
    modules = softhsm.modules
    stores = [
        catalog.open_key_store(
            "sealed", EmbeddedOptions(tmp_path / "k", SecretReference.parse("env:OWNKEY_TEST_PASSPHRASE")), modules
        ),
        catalog.open_key_store("hsm", Pkcs11Options(softhsm.module, token, SecretReference.file(pin_file)), modules),
    ]
    secrets = {"the passphrase": b"many stones in a little brook", "the PIN": pin.encode()}
    shown: list[str] = []
    for store in stores:
        await store.create("acme")
        made = await store.generate_data_key("acme", CONTEXT, TIMEOUT)
        secrets[f"a data key of {store.name}"] = bytes(made.plaintext.reveal())
        given = SecretBytes(os.urandom(32))
        secrets[f"a data key given to {store.name}"] = bytes(given.reveal())
        await store.wrap("acme", given, CONTEXT, TIMEOUT)
        for reference, context in (("acme", {}), ("none", CONTEXT)):
            try:
                await store.unwrap(reference, made.wrapped, context, TIMEOUT)
            except OwnkeyError as error:
                shown += told(error)
        shown += [repr(made), str(made), str(store)]
    config = server.write_settings(tmp_path / "server")
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace('directory = "keys"', 'directory = "keys"\npassphrase = "env:OWNKEY_TEST_PASSPHRASE"'),
        encoding="utf-8",
    )
    from ownkey_server.main import running_server

    async with running_server(load(config)) as running, connected(running.address) as rpc:
        request = pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True)
        secrets["a data key of the service"] = (await rpc.stub.GenerateDataKey(request)).plaintext
        await rpc.encrypt(os.urandom(300_000))
        seen = 0
        for thing in gc.get_objects():
            if str(type(thing).__module__).startswith(("ownkey_server", "ownkey.container", "ownkey.wrapped_key")):
                seen += 1
                shown += [repr(thing), str(thing)]
    for store in stores:
        await store.close()
    softhsm.delete_token(token)
    assert seen > 100
    assert leaks(secrets, {"reprs": "\n".join(shown).encode(), "logs": caplog.text.encode()}) == []
    assert leaks(secrets, {"reprs": repr(secrets).encode()}) != []


def told(error: BaseException) -> list[str]:
    """All that could be printed of an error and of those behind it."""
    shown = ["".join(traceback.format_exception(error))]
    behind: BaseException | None = error
    while behind is not None:
        shown += [repr(behind), str(behind), repr(vars(behind))]
        behind = behind.__cause__ or behind.__context__
    return shown


def test_no_traceback_is_set_up_to_show_the_values_of_variables() -> None:
    root = Path(__file__).resolve().parents[3]
    sources = [path for room in ("server", "clients/python") for path in (root / room).rglob("*.py")]
    assert len(sources) > 100
    forbidden = ("show_locals", "capture_locals", "rich.traceback", "cgitb", "sys.excepthook =")
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], path
    program = (
        "import sys, ownkey_server.commands.server, ownkey_server.commands.audit, ownkey.cli.main;"
        "print(sys.excepthook is sys.__excepthook__)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"

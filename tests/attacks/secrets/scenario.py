"""All that ownkey does, once, on a real server whose every secret is known; and all that was shown meanwhile.

A customer key in sealed files and one in SoftHSM, whose passphrase and PIN come from a file and from the environment; a
database in a file, or PostgreSQL behind a password. The server is run as one who looks for a fault would run it: debug
logging, gRPC's traces, asyncio's debug mode and Python's fault handler. At its end it crashes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sqlite3
import struct
import subprocess
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attacks.secrets import channels
from attacks.secrets.heaps import LOUD, Scene, secret_text
from ownkey.container import HeaderReader, serialize_context
from ownkey.v1 import asset_pb2
from ownkey.wrapped_key import WrappedKey
from ownkey_server import settings as settings_module
from support.admin import Admin
from support.guarded_role import GuardedRole
from support.postgres import PostgresServer
from support.rpc import Rpc, asset, connected, pb
from support.server import OWNKEY, TEMPLATES, ServerProcess, write_settings
from support.softhsm import SoftHsm

KEYS = ("provider", "acme-main")
FINANCE = {"user": "frida@acme.example"}
CHAT = {"asset_class": asset_pb2.ASSET_CLASS_TEAM_CHAT}
SETTINGS = """
passphrase = "file:passphrase"

[key_stores.hsm]
kind = "pkcs11"
module = "{module}"
token_label = "{token}"
pin = "env:HSM_PIN"

[key_stores.locked]
kind = "pkcs11"
module = "{module}"
token_label = "{locked}"
pin_file = "wrong-pin"
"""
LOCKED_KEY = '\n[[tenants.keys]]\nid = "locked"\nkey_store = "locked"\nreference = "acme-locked"\n'
# The only files that may hold a secret in clear.
SECRET_FILES = {
    "passphrase",
    "wrong-pin",
    "password",
    "wrong-password",
    "audit-signing.pem",
    "careless.toml",
} | channels.FILES
_serial = itertools.count()


async def play(folder: Path, softhsm: SoftHsm, postgres: PostgresServer | None) -> Scene:
    """The whole of it."""
    scene = Scene(folder)
    token, locked = f"secrets-{next(_serial)}", f"locked-{next(_serial)}"
    try:
        with channels.receiving(scene) as receivers:
            role = _prepare(scene, softhsm, token, locked, postgres, channels.settings(receivers))
            await _serve(scene, role, receivers)
        _collect(scene, role)
    finally:
        softhsm.delete_token(token)
        softhsm.delete_token(locked)
    return scene


async def _serve(scene: Scene, role: GuardedRole | None, receivers: channels.Receivers) -> None:
    with _served(scene) as server:
        async with connected(server.address) as rpc:
            await _use_keys(scene, rpc)
            _administer(scene, server.address)
            await channels.tell(scene, Admin(rpc.channel), server.address, receivers)
            await _take_keys_away(scene, rpc)
            _look_back(scene, server.address)
            await _break_the_database(scene, rpc, server.address, role)
        os.kill(server.pid, signal.SIGABRT)
        assert server.wait() == -signal.SIGABRT


def _prepare(
    scene: Scene, softhsm: SoftHsm, token: str, locked: str, postgres: PostgresServer | None, more: str
) -> GuardedRole | None:
    scene.keep_secret("the passphrase", "passphrase", secret_text())
    scene.keep_secret("the wrong PIN", "wrong-pin", secret_text())
    scene.secrets["the PIN"] = secret_text().encode()
    softhsm.make_token(token, scene.secrets["the PIN"].decode())
    softhsm.make_token(locked, secret_text())
    text = SETTINGS.format(module=softhsm.module, token=token, locked=locked)
    tenants = (TEMPLATES / "tenants.toml").read_text(encoding="utf-8")
    finance = 'key_store = "embedded"\nreference = "acme-finance"'
    assert finance in tenants
    tenants = tenants.replace(finance, 'key_store = "hsm"\nreference = "acme-hsm"')
    config = write_settings(scene.folder, tenants=tenants, extra=more)
    own = config.read_text(encoding="utf-8").replace('\ndirectory = "keys"\n', f'\ndirectory = "keys"\n{text}')
    role = None
    if postgres:
        scene.keep_secret("the database's password", "password", secret_text())
        scene.keep_secret("the wrong password", "wrong-password", secret_text())
        role = GuardedRole.make(postgres, scene.secrets["the database's password"].decode())
        assert 'url = "sqlite:///ownkey.db"' in own
        own = own.replace('url = "sqlite:///ownkey.db"', f'url = "{role.url}"\npassword = "file:password"')
    config.write_text(own, encoding="utf-8")
    (scene.folder / "keys").mkdir(mode=0o700)
    for reference in KEYS:
        path = scene.folder / "keys" / f"{reference}.key"
        path.touch(mode=0o600)
        path.write_bytes(os.urandom(32))
        scene.secrets[f"the customer key {reference}"] = path.read_bytes()
    scene.cli("-v", "keystore", "seal", "--config", "ownkey.toml")
    scene.cli("-v", "keystore", "create", "acme-hsm", "--store", "hsm", "--config", "ownkey.toml")
    scene.cli("-v", "keystore", "create", "acme-hsm", "--store", "hsm", "--config", "ownkey.toml", expect=10)
    scene.cli("-v", "keystore", "create", "x", "--store", "locked", "--config", "ownkey.toml", expect=9)
    wrong = ("--secret", "file:wrong-pin", "--config", "ownkey.toml")
    scene.cli("-v", "keystore", "seal", *wrong, expect=9)
    scene.cli("-v", "keystore", "create", "x", *wrong, expect=9)
    _, _, memory, passes, lanes, salt = struct.unpack(">8sBIII16s", (scene.folder / "keys" / ".seal").read_bytes()[:37])
    argon2 = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    scene.secrets["the sealing key"] = argon2.derive(scene.secrets["the passphrase"])
    _write_carelessly(scene, own.replace('password = "file:password"', ""))
    if role:
        wrong_password = own.replace("file:password", "file:wrong-password")
        (scene.folder / "wrong.toml").write_text(wrong_password, encoding="utf-8")
        # The trail's public key is missing as well, and is looked for first.
        for command, expected in ((("db", "upgrade"), 5), (("serve",), 5), (("audit", "verify"), 1)):
            scene.cli("-v", *command, "--config", "wrong.toml", expect=expected)
        scene.cli("db", "upgrade", "--config", "ownkey.toml")
    return role


def _write_carelessly(scene: Scene, settings: str) -> None:
    """Settings with secrets where references should be: refused, and not repeated."""
    passphrase, pin = (scene.secrets[name].decode() for name in ("the passphrase", "the PIN"))
    mail = scene.secrets["the mail server's password"].decode()
    for old, new in (
        ('"file:passphrase"', f'"{passphrase}"'),
        ('"env:HSM_PIN"', f'"{pin}"'),
        ('"env:HSM_PIN"', pin),
        ('pin = "env:HSM_PIN"', f'pin_code = "{pin}"'),
        ('"file:smtp-password"', f'"{mail}"'),
        ('sender = "ownkey@provider.example"', f'sender = "{mail}"'),
        (r'apprise_hosts = \["', f'apprise_hosts = ["https://{mail}@'),
        (r'apprise_schemes = \["', f'apprise_schemes = ["slack://{mail}", "'),
        (r"(?m)^url = .*$", f'url = "postgresql://ownkey:{pin}@127.0.0.1/ownkey"'),
        (r"(?m)^url = .*$", f'url = "postgresql://ownkey@127.0.0.1/ownkey"\npassword = "{pin}"'),
    ):
        changed, count = re.subn(old, new, settings, count=1)
        assert count
        (scene.folder / "careless.toml").write_text(changed, encoding="utf-8")
        scene.cli("-v", "serve", "--config", "careless.toml", expect=2)


@contextlib.contextmanager
def _served(scene: Scene) -> Iterator[ServerProcess]:
    log = scene.folder / "server.log"
    environment = os.environ | LOUD | {"HSM_PIN": scene.secrets["the PIN"].decode()}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [OWNKEY, "serve", "--config", str(scene.folder / "ownkey.toml"), "--log-level", "debug"],
            env=environment,
            cwd=scene.folder,
            stdout=sink,
            stderr=sink,
        )
    server = ServerProcess(process, scene.folder)
    try:
        server.wait_until_serving(log)
        yield server
    finally:
        process.kill()
        process.wait()


async def _refused(scene: Scene, call: Awaitable[Any]) -> None:
    """A call that must fail, and everything that its client learns."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        scene.show("errors of calls", f"{error!r}\n{error.details()}\n{error.debug_error_string()}")
        for key, value in (*(error.trailing_metadata() or ()), *(error.initial_metadata() or ())):
            scene.show("errors of calls", key)
            scene.show("errors of calls", value)
    else:
        raise AssertionError(f"it did not fail: {type(answer)}")


async def _use_keys(scene: Scene, rpc: Rpc) -> None:
    generate, unwrap = rpc.stub.GenerateDataKey, rpc.stub.Unwrap
    for number, facts in enumerate(({}, FINANCE, {"origin": 2}, {"asset_id": "call-2"}, CHAT)):
        request = pb.GenerateDataKeyRequest(asset=asset(**facts), with_plaintext=True)  # type: ignore[arg-type]
        made = await generate(request)
        scene.secrets[f"data key {number}"] = made.plaintext
        context = dict(made.encryption_context)
        whole = {"asset": asset(**facts), "wrapped_key": made.wrapped_key, "encryption_context": context}
        assert (await unwrap(pb.UnwrapRequest(**whole))).plaintext == made.plaintext
        other_context = context | {"site": "elsewhere"}
        await _refused(scene, unwrap(pb.UnwrapRequest(**whole | {"encryption_context": other_context})))
        await _refused(scene, unwrap(pb.UnwrapRequest(**whole | {"asset": asset(asset_id="another")})))
        for position in (0, 1, 4, len(made.wrapped_key) // 2, len(made.wrapped_key) - 1):
            broken = bytearray(made.wrapped_key)
            broken[position] ^= 0x41
            await _refused(scene, unwrap(pb.UnwrapRequest(**whole | {"wrapped_key": bytes(broken)})))
        for broken_key in (b"", made.wrapped_key[:-1], made.wrapped_key * 2):
            await _refused(scene, unwrap(pb.UnwrapRequest(**whole | {"wrapped_key": broken_key})))
    await _refused(scene, generate(pb.GenerateDataKeyRequest(asset=asset(tenant="nobody"), with_plaintext=True)))
    await _refused(scene, generate(pb.GenerateDataKeyRequest(asset=asset(asset_class=8), with_plaintext=True)))
    content = os.urandom(700_000)
    for facts in ({}, FINANCE):
        sealed = await rpc.encrypt(content, **facts)
        assert (await rpc.decrypt(sealed, **facts)).data == content
        broken = sealed[:600_000] + bytes([sealed[600_000] ^ 1]) + sealed[600_001:]
        for changed, named in ((broken, {}), (sealed[:-1], {}), (sealed, {"asset_id": "another"})):
            result = await rpc.decrypt(changed, **facts | named)
            assert result.failure is not None
            scene.show("errors of calls", repr(result.failure))
        if not facts:
            scene.secrets["a recording's data key"] = _opened(sealed, scene.secrets["the customer key acme-main"])

    await _know_the_branch_key(scene, rpc)


async def _know_the_branch_key(scene: Scene, rpc: Rpc) -> None:
    """Open it as the customer would, with the customer's key alone."""
    (branch,) = (await Admin(rpc.channel)("ListBranchKeys", tenant="acme", key="main")).branch_keys
    (entry,) = WrappedKey.from_bytes(branch.wrapped_key).encrypted_data_keys
    key, context = scene.secrets["the customer key acme-main"], serialize_context(branch.encryption_context)
    scene.secrets["a branch key"] = AESGCM(key).decrypt(entry.provider_info[-12:], entry.ciphertext, context)


def _opened(sealed: bytes, key: bytes) -> bytes:
    """The data key in an object's header, with the customer's key alone."""
    header = HeaderReader().feed(sealed)
    assert header is not None
    (entry,) = header.encrypted_data_keys
    context = serialize_context(header.encryption_context)
    return AESGCM(key).decrypt(entry.provider_info[-12:], entry.ciphertext, context)


def _administer(scene: Scene, address: str) -> None:
    at = {"OWNKEY_ADDRESS": address}
    scene.cli("status", **at)
    scene.cli("--json", "check", "--class", "phone_recording", "--asset-id", "x", **at)
    scene.cli("call", "--callee", "+15551234567", "--stores", "phone_recording", expect=None, **at)
    scene.cli("call", "--callee", "911", "--stores", "phone_recording", **at)
    scene.cli("--json", "datakey", "--class", "phone_recording", "--asset-id", "x", **at)
    tenants = (scene.folder / "tenants.toml").read_text(encoding="utf-8")
    scene.cli("-v", "apply", "-f", "tenants.toml", **at)
    groups = "\n[[tenants.groups]]"
    (scene.folder / "locked.toml").write_text(tenants.replace(groups, LOCKED_KEY + groups, 1), encoding="utf-8")
    scene.cli("-v", "apply", "-f", "locked.toml", expect=None, **at)
    assert b"the token has refused the PIN" in scene.heaps["what commands say"]
    changed = tenants.replace('default = "key:main"', 'default = "key:finance"')
    (scene.folder / "changed.toml").write_text(changed, encoding="utf-8")
    scene.cli("-v", "apply", "-f", "changed.toml", **at)
    scene.cli("-v", "apply", "-f", "tenants.toml", **at)
    scene.cli("export", **at)


async def _take_keys_away(scene: Scene, rpc: Rpc) -> None:
    whole = pb.GenerateDataKeyRequest(asset=asset(), with_plaintext=True)
    scene.cli("keystore", "disable", "acme-main", "--config", "ownkey.toml")
    await _refused(scene, rpc.stub.GenerateDataKey(whole))
    scene.cli("keystore", "enable", "acme-main", "--config", "ownkey.toml")
    scene.secrets["a data key after the revocation"] = (await rpc.stub.GenerateDataKey(whole)).plaintext
    # A damaged file, a file of another name, a missing seal, a directory that is gone.
    keys = scene.folder / "keys"
    path, seal = keys / "acme-main.key", keys / ".seal"
    content, sealed = path.read_bytes(), seal.read_bytes()
    for wrong in (content[:-1] + bytes([content[-1] ^ 1]), content[:40], (keys / "provider.key").read_bytes(), b""):
        path.write_bytes(wrong)
        await _refused(scene, rpc.stub.GenerateDataKey(whole))
    path.write_bytes(content[:36] + bytes([content[36] ^ 1]) + content[37:])
    seal.unlink()
    await _refused(scene, rpc.stub.GenerateDataKey(whole))
    seal.touch(mode=0o600)
    seal.write_bytes(sealed)
    path.write_bytes(scene.secrets["the customer key acme-main"])
    await _refused(scene, rpc.stub.GenerateDataKey(whole))
    path.write_bytes(content)
    keys.rename(scene.folder / "away")
    await _refused(scene, rpc.stub.GenerateDataKey(whole))
    (scene.folder / "away").rename(keys)
    scene.secrets["a data key after the outage"] = (await rpc.stub.GenerateDataKey(whole)).plaintext


def _look_back(scene: Scene, address: str) -> None:
    scene.cli("status", OWNKEY_ADDRESS=address)
    for command in (("tail", "-n", "500"), ("export",), ("verify",), ("checkpoint",), ("keep",)):
        scene.cli("audit", *command, "--config", "ownkey.toml", expect=None)
    exported = scene.cli("audit", "export", "--config", "ownkey.toml")
    assert "KEY_REVOKED" in exported
    scene.show("the audit's export", exported)


async def _break_the_database(scene: Scene, rpc: Rpc, address: str, role: GuardedRole | None) -> None:
    """A fault of the service's own, with a traceback in its log."""
    _copy_database(scene, role)
    if role:
        with psycopg.connect(role.superuser_url, autocommit=True) as connection:
            connection.execute("ALTER TABLE tenants RENAME TO tenants_away")
    else:  # whose missing tables count as an outage
        with contextlib.closing(sqlite3.connect(scene.folder / "ownkey.db")) as database, database:
            database.execute("UPDATE tenants SET enrolled_at = 'nonsense'")
    scene.cli("-v", "admin", "tenant", "list", expect=None, OWNKEY_ADDRESS=address)
    await _refused(scene, rpc.stub.GenerateDataKey(pb.GenerateDataKeyRequest(asset=asset(tenant="unknown-too"))))


def _copy_database(scene: Scene, role: GuardedRole | None) -> None:
    if not role:
        for path in scene.folder.glob("ownkey.db*"):
            scene.show(f"the database's file {path.name}", path.read_bytes())
        return
    with psycopg.connect(role.superuser_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f'COPY (SELECT * FROM "{table}") TO STDOUT'.encode()) as rows:
                scene.show("the database's rows", b"".join(bytes(row) for row in rows))


def _collect(scene: Scene, role: GuardedRole | None) -> None:
    key = load_pem_private_key((scene.folder / "audit-signing.pem").read_bytes(), password=None)
    scene.secrets["the audit's signing key"] = key.private_bytes_raw()  # type: ignore[union-attr]
    if not role:
        _copy_database(scene, role)
    scene.show("the server's output", (scene.folder / "server.log").read_bytes())
    for path in sorted(scene.folder.rglob("*")):
        if path.is_file() and path.name not in SECRET_FILES and not path.name.startswith(("ownkey.db", "server.log")):
            scene.show("other files", path.read_bytes())
    loaded = settings_module.load(scene.folder / "ownkey.toml")
    for shown in (repr(loaded), str(loaded), str(loaded.model_dump()), loaded.model_dump_json()):
        scene.show("the settings", shown)

"""A server that tells its callers apart, as loud as can be, and what its callers hold: tokens and private keys."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ownkey.v1 import role_pb2
from support.access import DOMAIN, Caller, Lab
from support.pki import Issued, now
from support.requests import request
from support.server import OWNKEY, ServerProcess, write_settings

MISLAID = "mislaid.toml"


def private_key(issued: Issued) -> dict[str, bytes]:
    """A private key in the ways in which it may be written down: its number, and the text of its file."""
    pem = issued.key.read_bytes()
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return {
        "number": key.private_numbers().private_value.to_bytes(32, "big"),
        # Its first line is the same for every key of its kind.
        "text": pem.splitlines()[2],
    }


def call(folder: Path, loud: dict[str, str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Serve, call with good and bad credentials, crash; gives the secrets, and all that was shown."""
    lab = Lab(folder)
    at = lab.authority.issue("server", hosts=["localhost"], addresses=["127.0.0.1"])
    issued = lab.authority.issue("recorder", uris=[f"{DOMAIN}/recorder"])
    kept = {f"the server's private key ({way})": secret for way, secret in private_key(at).items()}
    kept |= {f"a client's private key ({way})": secret for way, secret in private_key(issued).items()}
    ends = int(now().timestamp())
    tokens = {
        "a bearer token": lab.tokens.token("ann", jti=os.urandom(32).hex()),
        "a token that has expired": lab.tokens.token("ann", iat=ends - 700, exp=ends - 100),
        "a token for others": lab.tokens.token("ann", aud="somebody"),
        "a token by a stranger": lab.tokens.token("ann", key=ec.generate_private_key(ec.SECP256R1())),
        "a token of a stranger": lab.tokens.token("ann", iss="https://evil.example.org"),
    }
    for name, token in tokens.items():
        # What makes it good: the header, and most of the claims, are no secret.
        kept[name] = token.rsplit(".", 1)[1].encode()
    kept["what is no token"] = os.urandom(32).hex().encode()
    tokens["what is no token"] = kept["what is no token"].decode()
    heaps: dict[str, bytes] = {}
    config = write_settings(folder / "server", access=lab.access)
    _mislay(folder / "server", config, at, tokens["a bearer token"], tokens["what is no token"], heaps)
    log = folder / "server" / "server.log"
    command = [OWNKEY, "serve", "--config", str(config), "--log-level", "debug"]
    with log.open("wb") as sink:
        started = subprocess.Popen(command, env=os.environ | loud, stdout=sink, stderr=sink)
    try:
        server = ServerProcess(started, folder / "server")
        server.wait_until_serving(log)
        with lab.attached(server):
            heaps["errors of calls"] = _calls(lab, issued, tokens)
        started.send_signal(signal.SIGABRT)
        started.wait(20)
    finally:
        started.kill()
        started.wait()
    heaps["the server's output"] = log.read_bytes()
    for path in sorted((folder / "server").rglob("*")):
        if path.is_file() and path.name not in ("server.log", MISLAID):
            heaps["other files"] = heaps.get("other files", b"") + path.read_bytes() + b"\n"
    return kept, heaps


def _calls(lab: Lab, issued: Issued, tokens: dict[str, str]) -> bytes:
    """What callers of each kind learn."""
    lab.grant("corp/ann", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme"))
    lab.grant(f"{DOMAIN}/recorder", role_pb2.RoleGrant(role=role_pb2.ROLE_RECORDER, tenant="acme"))
    seen = []
    for name, token in tokens.items():
        for caller in (lab.by_token(token), lab.by_certificate(issued, token)):
            answer = caller.send("GenerateDataKey", request("GenerateDataKey", "acme"))
            assert bool(getattr(answer, "wrapped_key", b"")) == (name == "a bearer token"), (name, answer)
            seen += [repr(answer), repr(caller.send("EncryptMedia", request("EncryptMedia", "acme")))]
    # Where no token belongs, or in another shape.
    for metadata in (
        (("authorization", f"Basic {tokens['a bearer token']}"),),
        (("authorization", f"Bearer {tokens['a bearer token']}"),) * 2,
        (("x-forwarded-client-cert", tokens["a bearer token"]),),
        (("x-token", tokens["a bearer token"]),),
    ):
        caller = lab.by_token(None)
        caller._metadata = metadata  # type: ignore[assignment]
        seen.append(repr(caller.send("GenerateDataKey", request("GenerateDataKey", "acme"))))
    with grpc.insecure_channel(lab.token_address) as channel:  # to the listener of TLS, in clear
        seen.append(repr(Caller(channel, tokens["a bearer token"])("GetTenant", tenant="acme")))
    seen.append(repr(lab.by_certificate(issued)("GetTenant", tenant="acme")))
    return "\n".join(seen).encode()


def _mislay(folder: Path, config: Path, at: Issued, token: str, other: str, heaps: dict[str, bytes]) -> None:
    """Settings with the key itself, or a token, where its file's path or a URL belongs: refused, and not repeated."""
    good, pem = config.read_text(encoding="utf-8"), at.key.read_text(encoding="ascii")
    path = str(at.key)
    assert path in good
    wrong = [
        good.replace(f'"{path}"', f"'''{pem}'''"),
        good.replace(f'"{path}"', f'"{other}"'),
        good.replace(f'"{path}"', f'"{at.pem}"'),
        good.replace('issuer = "', f'jwks_url = "https://svc:{token}@idp.example.org/"\nissuer = "'),
        good.replace('issuer = "', f'algorithms = ["{token}"]\nissuer = "'),
        good.replace('listen = "localhost:0"', f'listen = "{token}"'),
    ]
    for text in wrong:
        assert text != good
        (folder / MISLAID).write_text(text, encoding="utf-8")
        command = [OWNKEY, "-v", "serve", "--config", MISLAID]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        heaps["what commands say"] = heaps.get("what commands say", b"") + done.stdout + done.stderr

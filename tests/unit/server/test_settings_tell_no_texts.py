"""A secret in the wrong place of the settings, whichever: no error and no repr has it."""

from __future__ import annotations

import copy
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args

import pytest
import tomli_w
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pydantic import BaseModel

from ownkey_server.paths import is_path, shown
from ownkey_server.rpc.reloading import UnusableFile, read
from ownkey_server.settings import Settings, SettingsError, load, require_known_callers

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
# Every setting that takes a text, or a list or table of texts, has a good value here: see the test below.
WHOLE: dict[str, Any] = {
    "server": {
        "listen": "127.0.0.1:0",
        "token_listen": "127.0.0.1:0",
        "health_listen": "unix:health.sock",
        "tls": {
            "certificate_file": "a.pem",
            "private_key_file": "a.key",
            "client_ca_file": "ca.pem",
            "crl_file": "crl.pem",
            "minimum_version": "1.3",
        },
    },
    "identity": {
        "certificates": {"spiffe_trust_domains": ["example.org"], "dns_suffixes": ["example.org"]},
        "sidecar": {"trusted": ["spiffe://example.org/envoy"]},
        "issuers": {
            "corp": {
                "issuer": "https://idp.example.org",
                "audience": "ownkey",
                "jwks_url": "https://idp.example.org/keys",
                "principal_claim": "sub",
                "authorized_parties": ["recorder"],
                "token_type": "at+jwt",
                "algorithms": ["ES256"],
            },
            "file": {"issuer": "https://other.example.org", "audience": "ownkey", "jwks_file": "jwks.json"},
        },
    },
    "authorization": {"operators": ["spiffe://example.org/admin"], "second_person": ["remove_key", "grant_role"]},
    "storage": {"url": "postgresql://o@db/o", "password": "file:password", "tenants_file": "tenants.toml"},
    "audit": {
        "signing_key_file": "signing.pem",
        "signing_key_passphrase": "file:passphrase",
        "public_key_files": ["old.pub"],
        "sink": {
            "kind": "s3",
            "bucket": "bucket",
            "prefix": "p",
            "region": "eu-west-1",
            "endpoint_url": "https://s3.example.org",
            "mode": "COMPLIANCE",
            "retain_days": 1,
        },
    },
    "notifications": {
        "allow_addresses": ["10.20.0.0/16"],
        "ca_file": "hooks.pem",
        "apprise_schemes": ["slack"],
        "apprise_hosts": ["ntfy.example.org"],
        "smtp": {
            "host": "mail.example.org",
            "security": "starttls",
            "sender": "ownkey@example.org",
            "username": "ownkey",
            "password": "file:mail",
            "ca_file": "mail.pem",
        },
    },
    "key_stores": {
        "files": {"kind": "embedded", "directory": "keys", "passphrase": "file:passphrase"},
        "hsm": {
            "kind": "pkcs11",
            "module": "m.so",
            "token_label": "t",
            "pin": "file:pin",
            "mechanism": "auto",
            "isolation": "process",
            "profile": "softhsm",
            "module_arguments": "connector=http://127.0.0.1:12345",
        },
        "hsm2": {"kind": "pkcs11", "module": "m.so", "token_label": "u", "pin_file": "pin"},
        "aws": {
            "kind": "aws_kms",
            "profile": "prod",
            "role_name": "ownkey",
            "external_id_prefix": "ownkey",
            "regions": ["eu-west-1"],
            "endpoint_url": "https://kms.example.org",
            "endpoint_urls": {"eu-west-1": "https://kms.example.org"},
            "sts_endpoint_url": "https://sts.example.org",
            "canary_key": ARN,
            "canary_keys": [ARN.replace("eu-west-1", "us-east-1")],
            "canary_role": "arn:aws:iam::999988887777:role/ownkey-canary",
        },
    },
}
Place = tuple[str | int, ...]


def places(part: Any, at: Place = ()) -> Iterator[Place]:
    """Where a text is, and where a table or a list is in whose place a text could be put."""
    if at and not isinstance(part, int):
        yield at
    match part:
        case dict():
            for name, value in part.items():
                yield from places(value, (*at, name))
        case list():
            yield from places(part[0], (*at, 0))


def put(at: Place, value: Any) -> dict[str, Any]:
    """The settings, with something in one place."""
    made = copy.deepcopy(WHOLE)
    part: Any = made
    for name in at[:-1]:
        part = part[name]
    part[at[-1]] = value
    return made


def told(folder: Path, document: dict[str, Any]) -> str:
    """All that a mistake, or the settings when there is none, tells."""
    path = folder / "ownkey.toml"
    path.write_bytes(tomli_w.dumps(document).encode())
    try:
        loaded = load(path)
        said = f"{loaded!r} {loaded} {loaded.server!r} {list(loaded.key_stores.values())!r} {loaded.audit.sink}"
        require_known_callers(loaded)
    except SettingsError as error:
        said = f"{error} {error!r} {error.__cause__!r} {error.__context__ if error.__cause__ else ''}"
    return said


LETTERS = st.text(alphabet=string.ascii_letters + string.digits + "-_", min_size=12, max_size=40)
SECRETS = LETTERS.map(lambda text: f"S3{text}")
SHAPES: dict[str, Callable[[str], str]] = {
    "alone": str,
    "in a URL": lambda secret: f"https://svc:{secret}@idp.example.org/keys",
    "as a user": lambda secret: f"https://{secret}@idp.example.org/keys",
    "as a port": lambda secret: f"https://idp.example.org:{secret}/keys",
    "in brackets": lambda secret: f"https://[{secret}]/keys",
    "beside a slash that is none": lambda secret: f"https://{secret}\u2100.example.org/",
    "in a query": lambda secret: f"https://kms.example.org/?token={secret}",
    "by another scheme": lambda secret: f"ftp://{secret}/keys",
    "before a port": lambda secret: f"{secret}@host:7400",
    "in a database's": lambda secret: f"postgresql://ownkey:{secret}@db/ownkey",
    "as PEM": lambda secret: f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n",
    "as PEM in a line": lambda secret: f"-----BEGIN PRIVATE KEY-----{secret}-----END PRIVATE KEY-----",
    "as a long text": lambda secret: secret * 30,
    "as a token": lambda secret: f"eyJhbGciOiJFUzI1NiJ9.{secret}.{secret}",
    "as a file with a control": lambda secret: f"file:{secret}\n",
    "as an ARN": lambda secret: f"arn:aws:kms:eu-west-1:111122223333:key/{secret}",
}


def test_the_settings_that_are_tried_are_good_and_name_every_text(tmp_path: Path) -> None:
    assert "Settings(" in told(tmp_path, WHOLE)
    tried = {name for place in places(WHOLE) for name in place}
    assert set(texts(Settings)) - {"keys", "call_gate", "limits"} <= tried, "all but sections of numbers alone"


def texts(kind: Any) -> Iterator[str]:
    """The names of settings in a section, and in what is in it, that do not take a number or a switch alone."""
    if isinstance(kind, type) and not isinstance(kind, GenericAlias) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if set(get_args(field.annotation) or [field.annotation]) - {int, float, bool, type(None)}:
                yield name
                yield from texts(field.annotation)
    else:
        for one in get_args(kind):
            yield from texts(one)


@pytest.mark.parametrize("shape", SHAPES)
@bounded(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(secret=SECRETS, data=st.data())
def test_a_secret_in_any_place_is_not_told(tmp_path: Path, shape: str, secret: str, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(list(places(WHOLE))))
    assert secret not in told(tmp_path, put(at, SHAPES[shape](secret))), at


@pytest.mark.parametrize("at", list(places(WHOLE)), ids=lambda at: ".".join(map(str, at)))
def test_in_each_place_in_turn(tmp_path: Path, at: Place) -> None:
    for shape in SHAPES.values():
        said = told(tmp_path, put(at, shape("S3cret-hunter2")))
        assert "hunter2" not in said, said
    for number in (4711471147114711, 4711471147114711.5):
        said = told(tmp_path, put(at, number))
        assert "4711471147114711" not in said, said


def test_nor_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for section, part in WHOLE.items():
        for name in part if section in ("server", "audit", "storage", "authorization") else ():
            with monkeypatch.context() as patch:
                patch.setenv(f"OWNKEY_{section}__{name}".upper(), "S3cret-hunter2")
                assert "hunter2" not in told(tmp_path, WHOLE), (section, name)


def test_nor_as_the_name_of_a_setting(tmp_path: Path) -> None:
    for at in ((), ("server",), ("identity", "issuers"), ("key_stores", "aws", "endpoint_urls"), ("audit", "sink")):
        for shape in ("in a URL", "as PEM", "as a long text", "in a database's"):
            assert "hunter2" not in told(tmp_path, put((*at, SHAPES[shape]("S3cret-hunter2")), "x")), (at, shape)


@pytest.mark.parametrize(
    "at",
    [
        ("identity", "issuers", "corp", "jwks_url"),
        ("audit", "sink", "endpoint_url"),
        ("key_stores", "aws", "endpoint_url"),
        ("key_stores", "aws", "sts_endpoint_url"),
        ("key_stores", "aws", "endpoint_urls", "eu-west-1"),
    ],
    ids=".".join,
)
@pytest.mark.parametrize("user", ["svc:hunter2@", "svc@", ":hunter2@", "@", ":@", "a%40b@"])
def test_no_url_holds_a_user(tmp_path: Path, at: Place, user: str) -> None:
    said = told(tmp_path, put(at, f"https://{user}idp.example.org/keys"))
    assert "must not hold a user" in said or "scheme, host, port and path alone" in said, said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url", ["https://s3.example.org/?key=x", "https://s3.example.org/#x", "s3.example.org", "s3:/"]
)
def test_a_sink_s_endpoint_is_scheme_host_port_and_path(tmp_path: Path, url: str) -> None:
    assert "scheme, host, port and path alone" in told(tmp_path, put(("audit", "sink", "endpoint_url"), url))


def test_a_slip_among_choices_and_a_number_out_of_range_are_told(tmp_path: Path) -> None:
    assert "got 'compliance'" in told(tmp_path, put(("audit", "sink", "mode"), "compliance"))
    assert "got 'remove'" in told(tmp_path, put(("authorization", "second_person", 0), "remove"))
    assert "got 9000000" in told(tmp_path, put(("audit", "segment_records"), 9_000_000))
    assert "got" not in told(tmp_path, put(("audit", "sink", "mode"), "hunter2"))


def test_a_path_in_errors_is_short_and_is_a_path() -> None:
    pem = f"-----BEGIN PRIVATE KEY-----\nMIIEv{'A' * 300}"
    for text in (pem, pem.replace("\n", ""), "A" * 256, "a/" * 3000, "\x00", ""):
        assert not is_path(text)
    for path in (Path(pem), Path("A" * 300), Path("/x/" + "B" * 100 + "/" + "A" * 200)):
        with pytest.raises(UnusableFile) as caught:
            read(path)
        assert "AAAA" not in str(caught.value)
        assert len(str(caught.value)) < 300
    assert shown(Path(f"/run/{'A' * 43}/tls.pem")) == "/run/.../tls.pem"
    assert shown(Path("/etc/ownkey/tls.pem")) == "/etc/ownkey/tls.pem"
    assert shown(Path("/" + "/".join(["folder"] * 100) + "/tls.pem")) == ".../tls.pem"

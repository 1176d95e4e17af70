"""A key that was made exportable goes to another token, by two custodians and the security officer; no other does."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.crooked_module import crooked
from support.hsm_operator import Ended, Operator
from support.hsm_thief import TAKE_ALONG, TAKE_IN_LOOSE
from support.softhsm import PIN, SO_PIN, SoftHsm

SHA1 = ("--hash", "sha1")  # all that SoftHSM 2.6.1 does for OAEP
OBJECTS = """
import sys, pkcs11
from pkcs11 import Attribute
module, token, pin = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:
    print(sorted(one.object_class.name for one in list(session.get_objects())))
"""


@dataclass
class Recipient:
    """Whoever is to have the key, with a key pair outside of any token."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        private = rsa.generate_private_key(65537, 2048)
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.private_file = self.folder / "private.pem"
        self.private_file.write_bytes(private.private_bytes(serialization.Encoding.PEM, *form))
        self.public_file = self.folder / "public.pem"
        information = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public_file.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, information))
        der = private.public_key().public_bytes(serialization.Encoding.DER, information)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        self.fingerprint = digest.finalize().hex()

    def opened(self, wrapped: Path) -> bytes:
        """What OpenSSL makes of the file."""
        oaep = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha1")
        options = [part for one in oaep for part in ("-pkeyopt", one)]
        key = ("-inkey", str(self.private_file), "-in", str(wrapped))
        command = ["openssl", "pkeyutl", "-decrypt", *key, *options]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture
def recipient(tmp_path: Path) -> Recipient:
    return Recipient(tmp_path / "recipient")


def to(operator: Operator, recipient: Recipient, *more: str, out: str = "wrapped.bin") -> tuple[str, ...]:
    """The options of an export, without its custodians."""
    given = ("--to", str(recipient.public_file), "--fingerprint", recipient.fingerprint, *SHA1)
    so_pin = operator.secret("so-pin", SO_PIN)
    return (*given, "--so-pin", so_pin, "--out", str(operator.folder / out), *operator.at(), *more)


def made(operator: Operator, *more: str) -> dict[str, Any]:
    """An exportable key, acme-main/v1."""
    answer: dict[str, Any] = operator.done("keygen", "acme-main", *more, *operator.at(), *operator.by("alice", "bob"))
    return answer


def objects(softhsm: SoftHsm, token: str) -> str:
    """The classes of what is in a token."""
    return softhsm.run_python(OBJECTS, str(softhsm.module), token, PIN).strip()


def refused(operator: Operator, ended: Ended, code: int, words: str) -> None:
    """It ended so, nothing was written, and nothing but keys is in the token."""
    assert (ended.code, words in ended.error["error"]) == (code, True), ended.printed
    assert not [path.name for path in operator.folder.glob("*wrapped.bin*")]
    assert "PUBLIC_KEY" not in objects(operator.softhsm, operator.token)


def test_a_key_goes_to_another_token_and_is_the_same_there(two: Operator) -> None:
    by = two.by("alice", "bob")
    value = made(two, "--exportable")["check_values"]["aes-ecb"]
    other = f"{two.token}-b"
    two.softhsm.make_token(other)
    begun = two.done(
        "import", "acme-main/v1", "--begin", "--out", str(two.folder), "--bits", "2048", *two.at(other), *by
    )
    guide = Path(begun["instructions"]).read_text(encoding="utf-8")
    assert f"--fingerprint {begun['fingerprint']}" in guide
    wrapped = two.folder / "wrapped.bin"
    exported = two.done(
        "export", "acme-main/v1", "--to", begun["public_key"], "--fingerprint", begun["fingerprint"].upper(),
        "--scheme", begun["scheme"], "--hash", begun["hash"], "--so-pin", two.secret("so-pin", SO_PIN),
        "--out", str(wrapped), *two.at(), *by,
    )  # fmt: skip
    assert (wrapped.stat().st_mode & 0o777, len(wrapped.read_bytes())) == (0o600, 256)
    assert f"--finish wrapped.bin --check-value {value}" in exported["next"]
    finish = ("import", "acme-main", "--finish", str(wrapped), "--check-value", value)
    assert two.done(*finish, *two.at(other), *by)["key"] == "acme-main/v1"
    config = two.settings({"a": two.token, "b": other})
    compared = two.done("compare", "acme-main/v1", "--config", str(config), "--store", "a", "--replica", "b")
    assert compared["check_values"] == {"a": {"aes-ecb": value}, "b": {"aes-ecb": value}}
    # The copy is not to be copied, unless that was asked for.
    first, second = two.keys()["acme-main/v1"], two.keys(other)["acme-main/v1"]
    assert (first["exportable"], second["exportable"]) == (True, False)
    # Each by the ceremony that made it there.
    assert (first["ceremony"], second["ceremony"]) == (2, 8)
    assert two.done("ceremony", "verify", "--log", str(two.log))["sound"]
    records = {(record["action"], record["phase"]): record for record in two.records()}
    done = records["export", "done"]
    assert done["confirmed_by"] == records["export", "begun"]["confirmed_by"] == ["alice", "bob"]
    assert (done["detail"]["recipient"], done["detail"]["scheme"]) == (begun["fingerprint"], "rsa-oaep")
    assert done["detail"]["keys"][0]["check_values"] == {"aes-ecb": value}
    assert done["detail"]["wrapped_sha256"] == records["import", "done"]["detail"].get(
        "wrapped_sha256", records["import", "begun"]["detail"].get("wrapped_sha256")
    )


@pytest.mark.parametrize("scheme", ["rsa-oaep", "rsa-aes"])
def test_a_copy_can_be_exportable_where_that_is_said(two: Operator, scheme: str) -> None:
    by, other = two.by("alice", "bob"), f"{two.token}-b"
    made(two, "--exportable")
    two.softhsm.make_token(other)
    begin = ("import", "acme-main/v1", "--begin", "--out", str(two.folder), "--bits", "2048", "--scheme", scheme)
    begun = two.done(*begin, "--exportable", *two.at(other), *by)
    assert begun["guarded"] is (scheme == "rsa-oaep")
    wrapped = two.folder / "wrapped.bin"
    recipient = ("--to", begun["public_key"], "--fingerprint", begun["fingerprint"], "--scheme", scheme, *SHA1)
    more = ("--so-pin", two.secret("so-pin", SO_PIN), "--out", str(wrapped), *two.at())
    two.done("export", "acme-main/v1", *recipient, *more, *by)
    # What is on its way is taken by nobody as a key that leaves without trust.
    taken = two.softhsm.run_python(TAKE_IN_LOOSE, str(two.softhsm.module), other, PIN, str(wrapped))
    assert taken.strip() == "TemplateInconsistent"
    two.done("import", "acme-main", "--finish", str(wrapped), *two.at(other), *by)
    assert two.keys(other)["acme-main/v1"]["exportable"] is True
    assert two.keys(other)["acme-main/v1"]["check_values"] == two.keys()["acme-main/v1"]["check_values"]


def test_openssl_opens_it_with_a_key_that_is_in_no_token(two: Operator, recipient: Recipient) -> None:
    value = made(two, "--exportable")["check_values"]["aes-ecb"]
    two.done("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob")))
    key = recipient.opened(two.folder / "wrapped.bin")
    command = ("openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex())
    seen = subprocess.run(command, check=True, capture_output=True, input=bytes(16), timeout=60).stdout[:3].hex()
    assert (len(key), seen) == (32, value)
    assert key.hex() not in "".join(two.printed) + two.log.read_text(encoding="utf-8")
    # The trust was for this one use.
    assert objects(two.softhsm, two.token) == "['SECRET_KEY']"


def test_a_key_that_was_not_made_exportable_is_not_exported(two: Operator, recipient: Recipient) -> None:
    made(two)
    assert two.keys()["acme-main/v1"]["exportable"] is False
    ended = two.run("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob")))
    refused(two, ended, 3, "was not made exportable")
    assert "rotate NAME --exportable" in ended.error["hint"]
    two.softhsm.make_key(two.token, "loose/v1", "SENSITIVE", "EXTRACTABLE", "ENCRYPT", "DECRYPT")
    refused(two, two.run("export", "loose/v1", *to(two, recipient, *two.by("alice", "bob"))), 9, "WRAP_WITH_TRUSTED")
    assert [record["action"] for record in two.records()] == ["open_log", "keygen", "keygen"]


def test_the_next_version_can_be_exported_where_that_is_said(two: Operator, recipient: Recipient) -> None:
    made(two)
    two.done("rotate", "acme-main", "--exportable", *two.at(), *two.by("alice", "bob"))
    keys = two.keys()
    assert [keys[f"acme-main/v{number}"]["exportable"] for number in (1, 2)] == [False, True]
    two.done("export", "acme-main/v2", *to(two, recipient, *two.by("alice", "bob")))


def test_one_custodian_is_not_enough_whatever_the_log_says(operator: Operator, recipient: Recipient) -> None:
    operator.softhsm.make_token(operator.token)
    operator.open_log("alice", "bob", needed=1)
    operator.done("keygen", "acme-main", "--exportable", *operator.at(), *operator.by("alice"))
    ended = operator.run("export", "acme-main/v1", *to(operator, recipient, *operator.by("alice")))
    refused(operator, ended, 3, "2 custodians must confirm")


def test_whoever_has_the_user_pin_alone_does_not_get_the_key(two: Operator) -> None:
    made(two, "--exportable")
    printed = two.softhsm.run_python(TAKE_ALONG, str(two.softhsm.module), two.token, two.pin, "acme-main/v1")
    assert "ALLOWED" not in printed
    assert printed.splitlines()[-1] == "tried 25"
    assert "wrap KeyNotWrappable" in printed.splitlines()


def test_a_wrong_pin_of_the_officer_is_tried_once_and_nothing_leaves(
    two: Operator, recipient: Recipient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(two, "--exportable")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    arguments[arguments.index("--so-pin") + 1] = two.secret("wrong", "99999999")
    arguments[arguments.index("--module") + 1] = str(crooked(two.softhsm, "counts-logins"))
    logins = tmp_path / "logins"
    monkeypatch.setenv("CROOKED_LOGINS", str(logins))
    refused(two, two.run("export", "acme-main/v1", *arguments), 3, "the token refuses the SO PIN")
    assert logins.read_text() == ".."  # the user, and the officer
    assert two.records()[-1]["phase"] == "failed"
    assert "99999999" not in "".join(two.printed) + two.log.read_text(encoding="utf-8")


def test_the_last_try_of_the_officers_pin_is_not_spent(
    two: Operator, recipient: Recipient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(two, "--exportable")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    arguments[arguments.index("--module") + 1] = str(crooked(two.softhsm, "officer-locks-next"))
    logins = tmp_path / "logins"
    monkeypatch.setenv("CROOKED_LOGINS", str(logins))
    refused(two, two.run("export", "acme-main/v1", *arguments), 3, "one more wrong SO PIN would lock the token")
    assert logins.read_text() == "."  # of the user, who looked at the key


class Terminal(io.StringIO):
    """Somebody at a terminal, who answers so."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("says_yes", [False, True])
def test_at_a_terminal_the_fingerprint_is_asked_about(
    two: Operator, recipient: Recipient, monkeypatch: pytest.MonkeyPatch, says_yes: bool
) -> None:
    made(two, "--exportable")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    at = arguments.index("--fingerprint")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", Terminal("y\n" if says_yes else "n\n"))
        ended = two.run("export", "acme-main/v1", *arguments[:at], *arguments[at + 2 :], as_json=False)
    assert recipient.fingerprint in ended.printed
    assert (ended.code, (two.folder / "wrapped.bin").exists()) == ((0, True) if says_yes else (3, False))
    assert len(two.records()) == (5 if says_yes else 3)


def test_another_recipient_than_was_confirmed_is_refused(two: Operator, recipient: Recipient, tmp_path: Path) -> None:
    made(two, "--exportable")
    other = Recipient(tmp_path / "other")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    arguments[arguments.index("--to") + 1] = str(other.public_file)
    refused(two, two.run("export", "acme-main/v1", *arguments), 3, f"its fingerprint is {other.fingerprint}")
    at = arguments.index("--fingerprint")
    refused(two, two.run("export", "acme-main/v1", *arguments[:at], *arguments[at + 2 :]), 3, "nobody has confirmed")
    arguments[arguments.index("--to") + 1] = str(other.private_file)
    refused(two, two.run("export", "acme-main/v1", *arguments), 2, "no RSA public key")


def test_a_file_that_is_there_is_left_alone(two: Operator, recipient: Recipient) -> None:
    made(two, "--exportable")
    out = two.folder / "wrapped.bin"
    out.write_bytes(b"mine")
    ended = two.run("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob")))
    assert (ended.code, out.read_bytes()) == (10, b"mine")
    ended = two.run("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob"), out="wrapped.bin/in"))
    assert (ended.code, "cannot be written" in ended.error["error"]) == (2, True)
    assert [record["action"] for record in two.records()] == ["open_log", "keygen", "keygen"]


def test_a_hash_that_the_token_does_not_do_is_told_before_anybody_confirms(two: Operator, recipient: Recipient) -> None:
    made(two, "--exportable")
    ended = two.run("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob"), "--hash", "sha256"))
    refused(two, ended, 9, "RSA-OAEP with sha256")
    assert "--hash sha1" in ended.error["hint"]
    assert len(two.records()) == 3


@pytest.mark.parametrize(
    "place",
    [
        "ownkey_server.hsm.exporting._digest",  # wrapped, and neither written nor recorded
        "ownkey_server.hsm.exporting._written",  # recorded, and not written
    ],
)
def test_a_kill_leaves_nothing_that_is_trusted(two: Operator, recipient: Recipient, place: str) -> None:
    made(two, "--exportable")
    two.killed_at(place, "export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob")))
    two.done("settle", *two.at())
    assert objects(two.softhsm, two.token) == "['SECRET_KEY']"
    assert not (two.folder / "wrapped.bin").exists()
    assert two.done("ceremony", "verify", "--log", str(two.log))["sound"]
    two.done("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob")))
    assert len(recipient.opened(two.folder / "wrapped.bin")) == 32


def test_a_kill_while_the_key_is_trusted_leaves_no_trust(two: Operator, recipient: Recipient) -> None:
    """The module hangs in C_WrapKey, under the key that is trusted by then, and the command is killed."""
    made(two, "--exportable")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    arguments[arguments.index("--module") + 1] = str(crooked(two.softhsm, "hang-once-trusted"))
    mark = two.softhsm.folder / "trusts"
    mark.unlink(missing_ok=True)
    os.mkfifo(mark)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ownkey.cli", "hsm", "export", "acme-main/v1", *arguments]
    reached = os.open(mark, os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            # The module has opened and closed it: it has the key that is trusted by then.
            assert select.select([reached], [], [], 60)[0]
            # No other program has that one, whatever PIN it knows.
            assert objects(two.softhsm, two.token) == "['SECRET_KEY']"
        finally:
            running.kill()
            os.close(reached)
        said = running.communicate(timeout=60)
    mark.unlink()
    assert running.returncode == -signal.SIGKILL, said
    two.done("settle", *two.at())
    assert objects(two.softhsm, two.token) == "['SECRET_KEY']"
    assert two.done("ceremony", "verify", "--log", str(two.log))["unfinished"]


def test_ctrl_c_is_on_record_and_leaves_no_trust(
    two: Operator, recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ownkey_server.hsm import processes
    from ownkey_server.hsm.operations.exporting import Export

    made(two, "--exportable")
    ask = processes.ModuleProcess.ask

    def interrupted(self: processes.ModuleProcess, operation: object, *more: float) -> object:
        answer = ask(self, operation, *more)  # type: ignore[arg-type]
        if isinstance(operation, Export):
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(processes.ModuleProcess, "ask", interrupted)
    assert two.run("export", "acme-main/v1", *to(two, recipient, *two.by("alice", "bob"))).code == 130
    monkeypatch.undo()
    assert [(one["action"], one["phase"]) for one in two.records()[-2:]] == [("export", "begun"), ("export", "failed")]
    assert objects(two.softhsm, two.token) == "['SECRET_KEY']"
    assert not [path.name for path in two.folder.glob("*wrapped.bin*")]


def test_a_token_that_trusts_nothing_says_so(two: Operator, recipient: Recipient) -> None:
    made(two, "--exportable")
    arguments = [*to(two, recipient, *two.by("alice", "bob"))]
    arguments[arguments.index("--module") + 1] = str(crooked(two.softhsm, "trusts-nobody"))
    refused(two, two.run("export", "acme-main/v1", *arguments), 9, "lets its security officer trust no key")


def test_a_token_that_ignores_trust_makes_no_exportable_key(alone: Operator) -> None:
    given = [*alone.at()]
    given[given.index("--module") + 1] = str(crooked(alone.softhsm, "ignores-trust"))
    ended = alone.run("keygen", "acme-main", "--exportable", *given)
    assert (ended.code, "would let an exportable key out" in ended.error["error"]) == (9, True)
    assert alone.keys() == {}


USES = """
import asyncio, sys
from pathlib import Path
from ownkey_server import settings
from ownkey_server.composition.core import open_key_stores
async def main():
    store = open_key_stores(settings.load(Path(sys.argv[1])))["hsm"]
    for reference in sys.argv[2:]:
        found = await store.describe(reference, 10)
        print(found.state.name, found.cause)
    await store.close()
asyncio.run(main())
"""


def test_the_service_uses_such_a_key_only_where_its_settings_say_so(alone: Operator) -> None:
    alone.done("keygen", "acme-main", "--exportable", *alone.at())
    alone.softhsm.make_key(alone.token, "loose/v1", "SENSITIVE", "EXTRACTABLE", "ENCRYPT", "DECRYPT")
    references = ("acme-main/v1", "loose/v1")
    config = alone.settings({"hsm": alone.token})
    strict = alone.softhsm.run_python(USES, str(config), *references).splitlines()
    assert [line.split()[0] for line in strict] == ["MISCONFIGURED", "MISCONFIGURED"]
    assert "exportable_keys = true" in strict[0]
    for isolation in ("process", "thread"):
        lines = ("exportable_keys = true", f'isolation = "{isolation}"')
        config = alone.settings({"hsm": alone.token}, "auto", *lines)
        used = alone.softhsm.run_python(USES, str(config), *references).splitlines()
        assert [line.split()[0] for line in used] == ["AVAILABLE", "MISCONFIGURED"]
        assert "CKA_EXTRACTABLE is true" in used[1]
    # A family of which it is not known gives such keys away, whatever the settings of the key store say.
    config = alone.settings({"hsm": alone.token}, "auto", "exportable_keys = true", 'profile = "generic"')
    (unknown,) = alone.softhsm.run_python(USES, str(config), "acme-main/v1").splitlines()
    assert unknown.split()[0] == "MISCONFIGURED"
    assert "honours_wrap_with_trusted" in unknown


def test_the_list_says_which_keys_can_be_exported(alone: Operator) -> None:
    alone.done("keygen", "acme-main", "--exportable", *alone.at())
    (remark,) = alone.keys()["acme-main/v1"]["remarks"]
    assert "exportable_keys = true" in remark


def test_a_key_in_several_tokens_can_be_exported_from_each(alone: Operator, recipient: Recipient) -> None:
    other = f"{alone.token}-b"
    alone.softhsm.make_token(other)
    config = str(alone.settings({"a": alone.token, "b": other}))
    at = ("--config", config, "--store", "a", "--replica", "b", "--log", str(alone.log))
    alone.done("keygen", "acme-main", "--exportable", *at)
    assert [alone.keys(token)["acme-main/v1"]["exportable"] for token in (alone.token, other)] == [True, True]
    # Whom a log without custodians lets do all else.
    ended = alone.run("export", "acme-main/v1", *to(alone, recipient))
    refused(alone, ended, 3, "2 custodians must confirm")


def test_a_copy_that_was_in_clear_for_a_moment_can_be_exportable_too(two: Operator, recipient: Recipient) -> None:
    by, other = two.by("alice", "bob"), f"{two.token}-b"
    made(two, "--exportable")
    two.softhsm.make_token(other)
    begin = ("import", "acme-main/v1", "--begin", "--in-process", "--exportable", "--out", str(two.folder))
    begun = two.done(*begin, "--bits", "2048", *two.at(other), *by)
    arguments = [*to(two, recipient, *by)]
    arguments[arguments.index("--to") + 1] = begun["public_key"]
    arguments[arguments.index("--fingerprint") + 1] = begun["fingerprint"]
    two.done("export", "acme-main/v1", *arguments)
    two.done("import", "acme-main", "--finish", str(two.folder / "wrapped.bin"), *two.at(other), *by)
    copy = two.keys(other)["acme-main/v1"]
    assert (copy["exportable"], copy["check_values"]) == (True, two.keys()["acme-main/v1"]["check_values"])
    ended = two.run("import", "acme-main", "--finish", "wrapped.bin", "--exportable", *two.at(other), *by)
    assert ended.code == 2

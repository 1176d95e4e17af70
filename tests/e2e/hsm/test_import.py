"""A customer's own key: wrapped by the very commands that are printed, unwrapped in the token, in clear nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ownkey_server.hsm import importing, processes
from ownkey_server.hsm.operations.transport import EndPair
from support.hsm_operator import Operator

KEY = bytes(range(100, 132))
BITS = ("--bits", "2048")


def check_value(key: bytes) -> str:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16))[:3].hex()


@dataclass
class Customer:
    """Who follows the instructions, with OpenSSL alone."""

    folder: Path

    def follow(self, begun: dict[str, Any], key: bytes = KEY) -> list[str]:
        """Do what the file says; what it printed."""
        (self.folder / "key.bin").write_bytes(key)
        script = Path(begun["instructions"])
        done = subprocess.run(
            ["sh", "-eu", script.name], cwd=self.folder, check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    @property
    def wrapped(self) -> Path:
        return self.folder / "wrapped.bin"


@pytest.fixture
def customer(tmp_path: Path) -> Customer:
    return Customer(tmp_path / "customer")


def begin(operator: Operator, customer: Customer, *more: str) -> dict[str, Any]:
    begun: dict[str, Any] = operator.done(
        "import", "acme-main", "--begin", "--out", str(customer.folder), *BITS, *operator.at(), *more
    )
    return begun


@pytest.mark.parametrize("scheme", ["rsa-oaep", "rsa-aes"])
def test_what_the_customer_wraps_by_the_printed_commands_is_their_key_in_the_token(
    two: Operator, customer: Customer, scheme: str
) -> None:
    by = two.by("alice", "bob")
    begun = begin(two, customer, "--scheme", scheme, *by)
    assert begun["key"] == "acme-main/v1"
    printed = customer.follow(begun)
    assert begun["fingerprint"] in printed
    assert check_value(KEY) in printed
    finish = ("import", "acme-main", "--finish", str(customer.wrapped), "--check-value", check_value(KEY))
    made = two.done(*finish, *two.at(), *by)
    assert (made["key"], made["check_values"]) == ("acme-main/v1", {"aes-ecb": check_value(KEY)})
    key = two.keys()["acme-main/v1"]
    assert (key["sensitive"], key["extractable"], key["local"], key["remarks"]) == (True, False, False, [])
    # The customer can leave: what the token wraps, their key opens without it.
    script = (
        "import sys, pkcs11\n"
        "from pkcs11.mechanisms import GCMParams\n"
        "module, token, pin = sys.argv[1:]\n"
        "with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:\n"
        "    key = session.get_key(label='acme-main/v1')\n"
        "    parameters = GCMParams(bytes(12), b'context', 128)\n"
        "    print(key.encrypt(b'content', mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters).hex())\n"
    )
    sealed = two.softhsm.run_python(script, str(two.softhsm.module), two.token, two.pin)
    assert AESGCM(KEY).decrypt(bytes(12), bytes.fromhex(sealed), b"context") == b"content"


def test_a_wrapping_key_is_for_one_import_and_opens_nothing_else(alone: Operator, customer: Customer) -> None:
    customer.follow(begin(alone, customer))
    again = alone.run("import", "acme-main", "--begin", "--out", str(customer.folder / "again"), *alone.at(), *BITS)
    assert (again.code, "has begun already" in again.error["error"]) == (10, True)
    alone.done("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    ended = alone.run("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    assert ended.code == 8
    script = (
        "import sys, pkcs11\n"
        "module, token, pin = sys.argv[1:]\n"
        "with pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin) as session:\n"
        "    print([each.object_class.name for each in session.get_objects()])\n"
    )
    left = alone.softhsm.run_python(script, str(alone.softhsm.module), alone.token, alone.pin).strip()
    assert left == "['SECRET_KEY']"


def test_a_key_with_another_check_value_is_not_taken(alone: Operator, customer: Customer) -> None:
    customer.follow(begin(alone, customer))
    finish = ("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    ended = alone.run(*finish, "--check-value", "000000")
    assert (ended.code, f"its check value is {check_value(KEY)}" in ended.error["error"]) == (9, True)
    assert alone.keys() == {}
    assert alone.records()[-1]["phase"] == "failed"
    # The same import can be finished with the right one.
    alone.done(*finish, "--check-value", check_value(KEY).upper())


@pytest.mark.parametrize("key", [KEY[:16], KEY[:24]])
def test_a_key_of_another_length_is_not_taken(alone: Operator, customer: Customer, key: bytes) -> None:
    customer.follow(begin(alone, customer), key)
    ended = alone.run("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    assert (ended.code, f"{len(key) * 8} bits" in ended.error["error"]) == (9, True)
    assert alone.keys() == {}


def test_what_was_wrapped_for_another_key_or_changed_is_not_taken(alone: Operator, customer: Customer) -> None:
    customer.follow(begin(alone, customer))
    wrapped = bytearray(customer.wrapped.read_bytes())
    wrapped[7] ^= 1
    customer.wrapped.write_bytes(wrapped)
    finish = ("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    ended = alone.run(*finish)
    assert (ended.code, "cannot unwrap" in ended.error["error"]) == (6, True)
    customer.wrapped.write_bytes(wrapped[:-1])
    ended = alone.run(*finish)
    assert (ended.code, "has 256 bytes here, not 255" in ended.error["error"]) == (2, True)
    assert alone.keys() == {}


def test_an_import_can_be_given_up(alone: Operator, customer: Customer) -> None:
    customer.follow(begin(alone, customer))
    alone.done("import", "acme-main", "--abandon", *alone.at())
    assert alone.run("import", "acme-main", "--finish", str(customer.wrapped), *alone.at()).code == 8
    assert alone.run("import", "acme-main", "--abandon", *alone.at()).code == 8


def test_in_process_is_said_loudly_and_on_record(alone: Operator, customer: Customer) -> None:
    at = ("--out", str(customer.folder), *BITS, *alone.at())
    begun = alone.run("import", "acme-main", "--begin", "--in-process", *at, as_json=False)
    assert (begun.code, "WARNING" in begun.printed) == (0, True)
    customer.follow({"instructions": str(customer.folder / "acme-main-v1.import.sh")})
    made = alone.done("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    assert made["check_values"] == {"aes-ecb": check_value(KEY)}
    assert alone.records()[-2]["detail"]["in_process"] is True
    written = "".join(alone.printed) + alone.log.read_text(encoding="utf-8")
    assert KEY.hex() not in written.lower()


# Whoever has the PIN, and the file that the customer sends, with the vendor's own interface.
THIEF = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MGF, ObjectClass
module, token, pin, file = sys.argv[1:]
oaep = dict(mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=(Mechanism.SHA_1, MGF.SHA1, None))
loose = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
strict = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.DERIVE: False}

def unwrapped(by, data, more, **how):
    key = by.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, data, template={Attribute.DERIVE: False, **more}, **how)
    return bytes(key[Attribute.VALUE])

def changed(by, data):
    by[Attribute.DECRYPT] = True
    return bytes(the_private_key().decrypt(data, **oaep))

def copied(by, data):
    return bytes(by.copy({Attribute.DECRYPT: True, Attribute.TOKEN: False}).decrypt(data, **oaep))

def by_an_envelope(by, data):
    more = {**strict, Attribute.UNWRAP: True}
    envelope = by.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, data[:256], template=more, **oaep)
    return unwrapped(envelope, data[256:], loose, mechanism=Mechanism.AES_KEY_WRAP_PAD)

def derived(by, data):
    more = {**strict, Attribute.DERIVE: True}
    by.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, data, template=more, **oaep)
    return b"a key that others can be derived from"

attempts = {
    "unwrapped": lambda by, data: unwrapped(by, data, loose, **oaep),
    "unwrapped without a template": lambda by, data: unwrapped(by, data, {}, **oaep),
    "changed": changed, "copied": copied, "by an envelope": by_an_envelope, "derived": derived,
}
data = open(file, "rb").read()
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    def the_private_key():
        (private,) = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        return private

    for name, attempt in attempts.items():
        try:
            print(name, attempt(the_private_key(), data).hex(), sep="=")
        except pkcs11.exceptions.PKCS11Error:
            pass
"""


def stolen(operator: Operator, customer: Customer) -> dict[str, str]:
    """What a thief gets, by how."""
    module = str(operator.softhsm.module)
    printed = operator.softhsm.run_python(THIEF, module, operator.token, operator.pin, str(customer.wrapped))
    return dict(line.split("=") for line in printed.splitlines())


def test_whoever_has_the_pin_and_the_customer_s_file_gets_no_key_out_of_the_token(
    alone: Operator, customer: Customer
) -> None:
    begun = begin(alone, customer)
    assert begun["guarded"] is True
    customer.follow(begun)
    assert stolen(alone, customer) == {}
    # And the import itself is as it was.
    alone.done("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    assert alone.keys()["acme-main/v1"]["check_values"] == {"aes-ecb": check_value(KEY)}
    assert [record["detail"].get("guarded") for record in alone.records()[2:4]] == [True, True]


def test_where_a_thief_can_get_it_the_customer_and_the_log_are_told(alone: Operator, customer: Customer) -> None:
    """By RSA-AES key wrap the token unwraps an envelope, and what that unwraps no token of ours can guard."""
    begun = begin(alone, customer, "--scheme", "rsa-aes")
    assert begun["guarded"] is False
    customer.follow(begun)
    assert stolen(alone, customer) == {"by an envelope": KEY.hex()}
    assert alone.records()[2]["detail"]["guarded"] is False


@pytest.mark.parametrize("as_json", [True, False])
def test_a_wrapping_key_that_could_not_be_destroyed_is_told_and_settled_later(
    alone: Operator, customer: Customer, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """The module's process is killed where the key is to be destroyed, as a crash of it would look."""
    ask = processes.ModuleProcess.ask

    def crashing(self: processes.ModuleProcess, operation: Any, seconds: float = 30.0) -> Any:
        if isinstance(operation, EndPair) and operation.label.startswith("import of"):
            os.kill(self.pid, signal.SIGSEGV)
        return ask(self, operation, seconds)

    customer.follow(begin(alone, customer))
    assert alone.done("list", *alone.at())["wrapping_keys"] == [{"key": "acme-main/v1", "state": "waiting"}]
    finish = ("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())
    with monkeypatch.context() as patch:
        patch.setattr(processes.ModuleProcess, "ask", crashing)
        ended = alone.run(*finish, as_json=as_json)
    assert ended.code == 0
    if as_json:
        assert ended.answer["wrapping_key"].startswith("left: the module")
        assert "ownkey hsm settle" in ended.answer["next"]
    else:
        assert "WARNING" in ended.printed
    told = alone.records()[-1]
    assert (told["action"], told["phase"], told["key"]) == ("settle", "failed", "acme-main/v1")
    assert "could not be destroyed: the module" in told["detail"]["why"]
    assert alone.done("ceremony", "verify", "--log", str(alone.log))["head"] in ended.printed
    # The key itself is as good as any, and what is left behind is seen.
    assert alone.keys()["acme-main/v1"]["use"] == "active"
    assert alone.done("list", *alone.at())["wrapping_keys"] == [{"key": "acme-main/v1", "state": "left"}]
    assert "`ownkey hsm settle` destroys it" in alone.run("list", *alone.at(), as_json=False).printed
    assert alone.done("settle", *alone.at())["wrapping_keys"] == ["acme-main/v1"]
    assert alone.done("list", *alone.at())["wrapping_keys"] == []
    assert alone.done("settle", *alone.at())["wrapping_keys"] == []


def test_settling_lets_alone_what_waits_and_what_another_log_knows(alone: Operator, customer: Customer) -> None:
    begin(alone, customer)
    other = alone.folder / "other.jsonl"
    alone.done("ceremony", "open", "--log", str(other), "--alone")
    at_other = (*alone.at(log=False), "--log", str(other))
    assert alone.done("settle", *alone.at())["wrapping_keys"] == []
    assert alone.done("settle", *at_other)["wrapping_keys"] == []
    assert alone.done("list", *at_other)["wrapping_keys"] == [{"key": "acme-main/v1", "state": "unknown"}]
    assert alone.done("list", *alone.at())["wrapping_keys"] == [{"key": "acme-main/v1", "state": "waiting"}]


def test_an_import_that_was_killed_as_it_began_can_be_settled_and_begun_again(
    alone: Operator, customer: Customer
) -> None:
    at = ("--out", str(customer.folder), *BITS, *alone.at())
    alone.killed_at("ownkey_server.hsm.importing.rsa_key", "import", "acme-main", "--begin", *at)
    assert alone.run("import", "acme-main", "--begin", *at).code == 10
    assert alone.done("settle", *alone.at())["wrapping_keys"] == ["acme-main/v1"]
    customer.follow(begin(alone, customer))
    alone.done("import", "acme-main", "--finish", str(customer.wrapped), *alone.at())


def test_the_files_of_an_import_are_written_over_nothing_and_through_no_link(
    alone: Operator, customer: Customer
) -> None:
    customer.folder.mkdir()
    guide, elsewhere = customer.folder / "acme-main-v1.import.sh", customer.folder.parent / "elsewhere"
    guide.symlink_to(elsewhere)
    at = ("--out", str(customer.folder), *BITS, *alone.at())
    ended = alone.run("import", "acme-main", "--begin", *at)
    assert (ended.code, ended.error["error"].startswith(f"{guide} is there already")) == (10, True)
    assert (elsewhere.exists(), [*customer.folder.iterdir()]) == (False, [guide])
    assert len(alone.records()) == 1  # nothing was begun


def test_files_that_appear_while_an_import_begins_leave_nothing_half_done(
    alone: Operator, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions = importing.instructions
    guide = customer.folder / "acme-main-v1.import.sh"

    def meanwhile(*arguments: Any) -> str:
        guide.write_text("somebody else's", encoding="utf-8")
        return instructions(*arguments)

    monkeypatch.setattr(importing, "instructions", meanwhile)
    at = ("--out", str(customer.folder), *BITS, *alone.at())
    ended = alone.run("import", "acme-main", "--begin", *at)
    assert (ended.code, "import acme-main/v1 --abandon" in ended.error["hint"]) == (10, True)
    assert guide.read_text(encoding="utf-8") == "somebody else's"
    assert [*customer.folder.iterdir()] == [guide]
    alone.done("import", "acme-main", "--abandon", *alone.at())

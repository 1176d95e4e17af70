"""What a module's process sends is data: nothing of it runs in the process that has custodians' keys."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.container import EncryptedDataKey
from ownkey_server.hsm.facts import KeyFacts, TokenFacts
from ownkey_server.hsm.operations.transport import PublicKey
from ownkey_server.hsm.wire import AnswerForbidden, packed, unpacked

KEY = KeyFacts("a/v1", "aes", 256, {"aes-ecb": "05f0fc"}, ("encrypt",), True, False, None, None, True, ("why",))
TOKEN = TokenFacts("ownkey", "1", "maker", "model", True, True, ("AES_GCM",))


@pytest.mark.parametrize(
    "answer",
    [
        ("done", None),
        ("done", [KEY, TOKEN]),
        ("done", PublicKey(b"n", b"e", ("sha1",), ("rsa-oaep",))),
        ("done", EncryptedDataKey("ownkey-pkcs11", b"info", b"ciphertext")),
        ("done", [b"blob", True, 7, "text"]),
        ("refused", ("message", "wrong", "")),
    ],
)
def test_what_operations_answer_arrives(answer: object) -> None:
    assert unpacked(packed(answer)) == answer


class Runs:
    """Would run when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_that_is_sent_runs_here(tmp_path: Path) -> None:
    with pytest.raises(AnswerForbidden):
        unpacked(pickle.dumps(("done", Runs(tmp_path / "made"))))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "pkcs11.lib", "pathlib.Path"])
def test_no_other_class_or_function_is_found(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(AnswerForbidden):
        unpacked(f"c{module}\n{attribute}\n.".encode())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_answer_are_refused_and_nothing_worse(content: bytes) -> None:
    with contextlib.suppress(AnswerForbidden):
        unpacked(content)

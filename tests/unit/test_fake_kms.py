"""The fake of AWS KMS decides about policies as AWS documents it: other tests rest on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.aws_subjects import client, dummy_credentials
from support.fake_kms_policy import allows, allows_use

ME = "arn:aws:iam::999988887777:user/ownkey"
SESSION = "arn:aws:sts::111122223333:assumed-role/ownkey/ownkey-acme"
CLASS = "kms:EncryptionContext:ownkey:asset-class"
FACTS = {CLASS: "phone_recording", "kms:EncryptionContextKeys": ["ownkey:asset-class", "ownkey:tenant"]}


def statement(effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", **more}


@pytest.mark.parametrize(
    ("statements", "principal", "allowed"),
    [
        ([], ME, False),
        ([statement()], ME, True),
        ([statement(Action="kms:Encrypt")], ME, False),
        ([statement(Action=["kms:De*"])], ME, True),
        ([statement(NotAction="kms:Encrypt", Action=[])], ME, True),
        ([statement(), statement("Deny")], ME, False),
        ([statement(Principal={"AWS": ME})], ME, True),
        ([statement(Principal={"AWS": "arn:aws:iam::999988887777:root"})], ME, True),
        ([statement(Principal={"AWS": "111122223333"})], ME, False),
        ([statement(Principal={"AWS": "arn:aws:iam::111122223333:role/ownkey"})], SESSION, True),
        ([statement(NotPrincipal={"AWS": ME})], ME, False),
        ([statement(Condition={"StringEquals": {CLASS: "phone_recording"}})], ME, True),
        ([statement(Condition={"StringEquals": {CLASS: ["x", "phone_recording"]}})], ME, True),
        ([statement(Condition={"StringEquals": {CLASS: "x"}})], ME, False),
        ([statement(Condition={"StringLike": {CLASS: "phone_*"}})], ME, True),
        ([statement(Condition={"StringNotEquals": {CLASS: "phone_recording"}})], ME, False),
        ([statement(Condition={"StringNotEquals": {"kms:EncryptionContext:other": "x"}})], ME, True),
        ([statement(Condition={"StringEquals": {"kms:EncryptionContext:other": "x"}})], ME, False),
        ([statement(Condition={"StringEqualsIfExists": {"kms:EncryptionContext:other": "x"}})], ME, True),
        ([statement(Condition={"Null": {"kms:EncryptionContext:other": "true"}})], ME, True),
        ([statement(Condition={"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "ownkey:tenant"}})], ME, True),
        ([statement(Condition={"ForAllValues:StringLike": {"kms:EncryptionContextKeys": "ownkey:*"}})], ME, True),
        ([statement(Condition={"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "x"}})], ME, False),
        ([statement(), statement("Deny", Condition={"StringEquals": {CLASS: "phone_recording"}})], ME, False),
        ([statement(), statement("Deny", Condition={"StringEquals": {CLASS: "team_chat"}})], ME, True),
    ],
)
def test_a_policy(statements: list[dict[str, Any]], principal: str, allowed: bool) -> None:
    assert allows({"Statement": statements}, principal, "kms:Decrypt", FACTS) is allowed


ROLE = "arn:aws:iam::111122223333:role/ownkey"
OF_ROLE = {"Principal": {"AWS": ROLE}}
OF_ROOT = {"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}
IAM_ALLOWS = {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
IAM_DENIES = {"Statement": [{"Effect": "Deny", "Action": "kms:*", "Resource": "*"}]}
NOTHING: dict[str, Any] = {"Statement": []}


@pytest.mark.parametrize(
    ("statements", "principal", "identity_policy", "allowed"),
    [
        # In one account a key policy that names the principal is enough; one that names the root leaves it to IAM.
        ([statement(**OF_ROLE)], SESSION, None, True),
        ([statement(**OF_ROLE)], SESSION, NOTHING, True),
        ([statement(**OF_ROLE)], SESSION, IAM_DENIES, False),
        ([statement(**OF_ROOT)], SESSION, None, False),
        ([statement(**OF_ROOT)], SESSION, NOTHING, False),
        ([statement(**OF_ROOT)], SESSION, IAM_ALLOWS, True),
        ([statement(**OF_ROOT), statement("Deny", **OF_ROLE)], SESSION, IAM_ALLOWS, False),
        ([], SESSION, IAM_ALLOWS, False),
        ([statement(**OF_ROOT)], OF_ROOT["Principal"]["AWS"], None, True),
        # Across accounts both must allow.
        ([statement(Principal={"AWS": ME})], ME, IAM_ALLOWS, True),
        ([statement(Principal={"AWS": ME})], ME, NOTHING, False),
        ([statement(Principal={"AWS": ME})], ME, None, True),
        ([statement(**OF_ROOT)], ME, IAM_ALLOWS, False),
    ],
)
def test_a_key_policy_and_iam_together(
    statements: list[dict[str, Any]], principal: str, identity_policy: dict[str, Any] | None, allowed: bool
) -> None:
    policy = {"Statement": statements}
    assert allows_use(policy, "111122223333", identity_policy, principal, "kms:Decrypt", FACTS) is allowed


def test_it_serves_as_a_process_of_its_own() -> None:
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "support.fake_kms", "--port", "0"]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as process, dummy_credentials():
        assert process.stdout is not None
        kms = client("kms", process.stdout.readline().strip())
        key = kms.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
        made = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        assert kms.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
        kms.close()
        process.terminate()

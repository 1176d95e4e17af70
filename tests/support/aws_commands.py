"""``ownkey aws`` as a test runs it, and a customer's account on the fake for it to look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ownkey.cli.main import Shared
from ownkey_server import hardening
from ownkey_server.commands.aws import aws
from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, role_arn, trust_policy
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms

ROLE = role_arn(ACCOUNT, "ownkey")
ACCESS = Access("acme", account_root(ACCOUNT), (ROLE,), inspects=True)
CANARY_KEY = "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CANARY_ROLE = "arn:aws:iam::444455556666:role/ownkey-canary"


def forget_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no credentials, settings or limits of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "OWNKEY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(hardening, "harden", lambda: None)


def run(*arguments: str, as_json: bool = False) -> Result:
    """Run a command; an exception that it should have told is a failure."""
    shared = Shared()
    shared.as_json = as_json
    result = CliRunner().invoke(aws, arguments, obj=shared)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


class Account:
    """A customer's account on the fake, with a role for ownkey, and the provider's settings."""

    def __init__(self, kms: FakeKms, folder: Path) -> None:
        self.kms = kms
        self.config = folder / "ownkey.toml"
        self.settings(role=True)
        kms.create_role(ROLE, trust_policy(PROVIDER, "ownkey-acme", {"ownkey:tenant": "acme"}))

    def settings(self, *, role: bool, more: str = "", canaries: bool = True, kms: str = "", sts: str = "") -> None:
        """Write them; ``kms`` and ``sts`` are where these are, where it is not the fake."""
        url = self.kms.url
        lines = ["[key_stores.aws]", 'kind = "aws_kms"', more]
        lines += [f'endpoint_url = "{kms or url}"', f'sts_endpoint_url = "{sts or url}"']
        lines += ['role_name = "ownkey"'] if role else []
        if canaries:
            others = [CANARY_KEY.replace("eu-west-1", region) for region in ("us-east-1", "eu-north-1")]
            lines += [
                f'canary_key = "{CANARY_KEY}"',
                f"canary_keys = {others}",
                *([f'canary_role = "{CANARY_ROLE}"'] if role else []),
            ]
        self.config.write_text("\n".join(lines), encoding="utf-8")

    def key(self, policy: dict[str, Any] | None = None, **options: Any) -> str:
        arn = self.kms.create_key(policy=policy or key_policy(ACCESS), **options)
        if self.kms.key(arn).origin == "AWS_KMS":
            self.kms.key(arn).rotation = True
        return arn

    def verify(self, *arns: str, tenant: str = "acme", code: int = 0) -> dict[str, list[dict[str, str]]]:
        """What was found: by outcome."""
        more = ("--tenant", tenant) if tenant else ()
        done = run("verify", *arns, *more, "--config", str(self.config), as_json=True)
        assert done.exit_code == code, done.output
        told = json.loads(done.stdout)
        assert told["ok"] is (code == 0)
        found: dict[str, list[dict[str, str]]] = {"pass": [], "warn": [], "fail": []}
        for finding in told["findings"]:
            found[finding["outcome"]].append(finding)
        assert {outcome: len(ones) for outcome, ones in found.items()} == {name: told[name] for name in found}
        return found

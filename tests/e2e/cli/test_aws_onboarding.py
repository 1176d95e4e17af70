"""From a printed policy to an enrolled key, and what is taken back by scope: the commands as their users run them.

The key store's credentials are those of :data:`support.fake_kms.PROVIDER`, let in by the key policy alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import server
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms
from support.server import OWNKEY

REGIONS = ("eu-west-1", "us-east-1")


class Site:
    """A customer's account, a running ownkey, and everybody's command line."""

    def __init__(self, kms: FakeKms, folder: Path, address: str) -> None:
        self.kms = kms
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("OWNKEY_")}
        self.environment |= {"OWNKEY_ADDRESS": address, "OWNKEY_TENANT": "acme"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [OWNKEY, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: str) -> Any:
        done = self.run("--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def policy(self, *options: str) -> dict[str, Any]:
        """What the customer's admin prints."""
        printed: dict[str, Any] = self.ok("aws", "key-policy", "--principal", PROVIDER, "--account", ACCOUNT, *options)
        return printed

    def put(self, arns: list[str], policy: dict[str, Any]) -> None:
        """What the customer's admin puts on the key, in each region."""
        for arn in arns:
            self.kms.set_policy(arn, policy)

    def encrypt(self, asset: str, *options: str) -> None:
        facts = ("--class", "phone_recording", "--asset-id", asset)
        self.ok("encrypt", "call.wav", "-o", f"{asset}.ownkey", *facts, *options)

    def opens(self, asset: str) -> bool:
        done = self.run("decrypt", f"{asset}.ownkey", "-o", f"{asset}.wav", "--force")
        return done.returncode == 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "call.wav").write_bytes(os.urandom(100_000))
    with FakeKms() as kms:
        store = f'\n[key_stores.aws]\nkind = "aws_kms"\nendpoint_url = "{kms.url}"\nsts_endpoint_url = "{kms.url}"\n'
        with server.process(tmp_path, extra=store) as running:
            yield Site(kms, tmp_path, running.address)


def test_from_a_printed_policy_to_an_enrolled_key_and_back_by_scope(site: Site) -> None:
    primary = site.kms.create_key(REGIONS[0], multi_region=True)
    arns = [primary, site.kms.replicate(primary, REGIONS[1])]
    site.put(arns, site.policy())
    found = site.ok("aws", "verify", *arns, "--config", "ownkey.toml")
    assert (found["ok"], found["fail"]) == (True, 0)

    # Enrolment, the replica's proof and probes get through the condition: each context says whose it is.
    site.ok("admin", "key", "enrol", "aws", "--store", "aws", "--reference", arns[0])
    site.ok("admin", "key", "add-replica", "aws", "--store", "aws", "--reference", arns[1])
    site.ok("admin", "key", "activate", "aws")
    (site.folder / "policy.toml").write_text('default = "key:aws"\n')
    site.ok("admin", "policy", "create", "-f", "policy.toml", "--activate")
    for asset in ("call-7", "call-8"):
        site.encrypt(asset)
        assert site.opens(asset)
    served = [call for call in site.kms.calls if call.context]
    assert served
    assert {call.context["ownkey:tenant"] for call in served if call.key in arns and not call.error} == {"acme"}

    site.put(arns, site.policy("--revoke", "asset=call-7"))
    assert not site.opens("call-7")
    assert site.opens("call-8")
    site.put(arns, site.policy("--revoke", "class=phone_recording,hour=2020-*"))
    assert site.opens("call-7")
    site.put(arns, site.policy("--revoke", "class=phone_recording"))
    assert not site.opens("call-7")
    assert not site.opens("call-8")
    # The key itself is not revoked, and its status does not say so: probes have none of the scope's pairs.
    states = {one["key"]: one["state"] for one in site.ok("status")["keys"]}
    assert states["tenants/acme/keys/aws"] == "available"

    site.put(arns, site.policy())
    assert site.opens("call-8")
    # In every region: what is denied in one may be served by the other.
    site.put(arns[1:], site.policy("--revoke", "all"))
    assert site.opens("call-8")
    site.put(arns, site.policy("--revoke", "all"))
    assert not site.opens("call-8")


def test_a_key_whose_policy_is_another_tenants_is_not_enrolled(site: Site) -> None:
    arn = site.kms.create_key(REGIONS[0])
    site.put([arn], site.policy("--tenant", "umbrella"))
    done = site.run("admin", "key", "enrol", "aws", "--store", "aws", "--reference", arn)
    assert done.returncode != 0
    found = site.run("aws", "verify", arn, "--config", "ownkey.toml")
    assert found.returncode == 1
    assert "allow kms:GenerateDataKey with the tenant's context" in found.stdout


def test_a_key_that_nothing_ties_to_its_tenant_is_not_enrolled(site: Site) -> None:
    arn = site.kms.create_key(REGIONS[0])
    policy = site.policy()
    policy["Statement"] = [one for one in policy["Statement"] if one["Sid"] != "OwnkeyNothingOfOtherTenants"]
    for one in policy["Statement"]:
        one.pop("Condition", None)
    site.put([arn], policy)
    done = site.run("admin", "key", "enrol", "aws", "--store", "aws", "--reference", arn)
    assert done.returncode != 0
    assert "a context of another tenant too" in done.stderr
    found = site.run("aws", "verify", arn, "--config", "ownkey.toml")
    assert found.returncode == 1
    site.put([arn], site.policy())
    site.ok("admin", "key", "enrol", "aws", "--store", "aws", "--reference", arn)


@pytest.mark.parametrize("command", ["key-policy", "template", "verify"])
def test_each_command_explains_itself(site: Site, command: str) -> None:
    assert site.run("aws", command, "--help").returncode == 0
    assert site.run("aws", command).returncode == 2
    assert command in site.run("aws", "--help").stdout

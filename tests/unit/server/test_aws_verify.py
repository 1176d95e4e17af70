"""``ownkey aws verify``: what it finds on a customer's account, and what it says to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, trust_policy
from support.aws_commands import ACCESS, ROLE, Account, forget_this_machine, run
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_this_machine(monkeypatch)


def checks(findings: list[dict[str, str]]) -> list[str]:
    return [one["check"] for one in findings]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with FakeKms() as kms:
        yield Account(kms, tmp_path)


def test_a_key_with_the_printed_policy_passes_whole(account: Account) -> None:
    arn = account.key(multi_region=True)
    replica = account.kms.replicate(arn, "us-east-1")
    account.kms.set_policy(replica, key_policy(ACCESS))
    found = account.verify(arn, replica)
    assert (found["warn"], found["fail"]) == ([], [])
    seen = {(one["place"], one["check"]): one["seen"] for one in found["pass"]}
    assert "external id ownkey-acme" in seen["eu-west-1", "access"]
    assert seen["us-east-1", "multi-Region"] == "replica of a key in eu-west-1, us-east-1"
    assert ("us-east-1", "unwrap of eu-west-1") in seen
    assert ("eu-west-1", "unwrap of us-east-1") in seen
    assert account.kms.counts["PutKeyPolicy"] == account.kms.counts["DisableKey"] == 0


def test_it_is_for_people_in_lines_that_end_where_they_end(account: Account) -> None:
    done = run("verify", account.key(), "--tenant", "acme", "--config", str(account.config))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "20 pass, 0 warn, 0 fail"
    assert all(line == line.rstrip() for line in lines)
    assert any(line.startswith("eu-west-1  other tenants") and " pass  denied" in line for line in lines)


def test_replicas_that_are_not_given_are_named(account: Account) -> None:
    arn = account.key(multi_region=True)
    account.kms.replicate(arn, "us-east-1")
    [warning] = account.verify(arn)["warn"]
    assert warning["check"] == "multi-Region"
    assert "not checked here: us-east-1" in warning["seen"]


def test_each_replica_has_a_state_and_a_policy_of_its_own(account: Account) -> None:
    arn = account.key(multi_region=True)
    replica = account.kms.replicate(arn, "us-east-1")
    account.kms.set_policy(replica, key_policy(ACCESS))
    account.kms.disable(replica)
    failures = account.verify(arn, replica, code=1)["fail"]
    assert {(one["place"], one["check"]) for one in failures} == {("us-east-1", "state"), ("us-east-1", "wrap")}
    assert all("enable" in one["advice"] for one in failures)


def test_another_tenants_context_is_warned_of_where_the_role_is_the_tenants(account: Account) -> None:
    policy = key_policy(ACCESS)
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    found = account.verify(account.key(policy))
    assert checks(found["warn"]) == ["policy: tenant's context", "other tenants"]
    assert "another tenant" in found["warn"][1]["seen"]
    assert "the role refuses other tenants" in found["warn"][1]["seen"]
    assert "role's trust" in checks(found["pass"])


def test_another_tenants_context_fails_where_nothing_else_ties_the_key_to_the_tenant(account: Account) -> None:
    account.settings(role=False)
    policy = key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,)))
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    [failure] = account.verify(account.key(policy), code=1)["fail"]
    assert failure["check"] == "other tenants"
    assert "key-policy" in failure["advice"]


def test_a_role_that_other_tenants_get_fails_and_ties_no_key(account: Account) -> None:
    anybody = trust_policy(PROVIDER, "ownkey-acme")
    del anybody["Statement"][0]["Condition"]
    account.kms.create_role(ROLE, anybody)
    [failure] = account.verify(account.key(), code=1)["fail"]
    assert (failure["check"], "sts:ExternalId" in failure["advice"]) == ("role's trust", True)
    policy = key_policy(ACCESS)
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    failures = account.verify(account.key(policy), code=1)["fail"]
    assert checks(failures) == ["role's trust", "other tenants"]


def test_a_policy_that_lets_everybody_in_fails(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"})
    assert checks(account.verify(account.key(policy), code=1)["fail"]) == ["policy: no wildcard"]
    policy["Statement"][-1] |= {
        "Principal": {"AWS": ["*"]},
        "Condition": {"StringEquals": {"kms:CallerAccount": ACCOUNT}},
    }
    assert "policy: no wildcard" in checks(account.verify(account.key(policy))["warn"])


def test_a_policy_that_locks_the_root_out_is_warned_of(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"] = policy["Statement"][1:]
    assert checks(account.verify(account.key(policy))["warn"]) == ["policy: administration"]


def test_what_we_may_not_look_at_is_not_known(account: Account) -> None:
    account.settings(role=False)
    arn = account.key(key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,))))
    found = account.verify(arn)
    assert checks(found["warn"]) == ["rotation", "policy"]
    assert all("may not look" in one["seen"] for one in found["warn"])
    assert "other tenants" in checks(found["pass"])


def test_a_revoked_key_and_a_missing_right_say_what_to_do(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"})
    [failure] = account.verify(account.key(policy), code=1)["fail"]
    assert failure["check"] == "unwrap"
    assert "allow kms:Decrypt" in failure["advice"]
    arn = account.key()
    account.kms.schedule_deletion(arn)
    failures = account.verify(arn, code=1)["fail"]
    assert "deletion on 2" in failures[0]["seen"]
    assert "cancel-key-deletion" in failures[0]["advice"]


def test_origins_have_their_limits(account: Account) -> None:
    imported = account.key(origin="EXTERNAL")
    assert "state" in checks(account.verify(imported, code=1)["fail"])
    account.kms.import_material(imported, valid_to=4_000_000_000)
    [warning] = account.verify(imported)["warn"]
    assert "expires on 2096-10-02" in warning["seen"]
    account.kms.import_material(imported)
    assert account.verify(imported)["warn"] == []
    [warning] = account.verify(account.key(origin="EXTERNAL_KEY_STORE"))["warn"]
    assert "250 ms" in warning["seen"]


def test_a_key_of_another_kind_fails(account: Account) -> None:
    failures = account.verify(account.key(spec="HMAC_256"), code=1)["fail"]
    assert checks(failures)[:2] == ["key spec", "usage"]


def test_regions_arns_and_access_that_are_wrong(account: Account) -> None:
    arn = account.key()
    account.settings(role=True, more='regions = ["us-east-1"]')
    [failure] = account.verify(arn, code=1)["fail"]
    assert failure["check"] == "region"
    account.settings(role=True)
    [failure] = account.verify("alias/acme", code=1)["fail"]
    assert "no alias" in failure["seen"]
    assert checks(account.verify(arn, tenant="umbrella", code=1)["fail"]) == ["access"]
    [failure] = account.verify(arn, tenant="", code=1)["fail"]
    assert "say --tenant" in failure["seen"]
    gone = arn[:-4] + "0000"
    assert "NotFoundException" in account.verify(gone, code=1)["fail"][0]["seen"]


def test_an_outage_is_no_verdict_on_the_key(account: Account) -> None:
    arn = account.key()
    account.settings(role=False, more="connect_timeout_seconds = 0.2\nread_timeout_seconds = 0.2")
    account.kms.cut_off()
    failures = account.verify(arn, code=1)["fail"]
    assert all("no answer" in one["seen"] for one in failures)


def test_what_aws_answers_moves_no_cursor(account: Account) -> None:
    arn = account.key()
    account.kms.fail("DescribeKey", "AccessDeniedException", "\x1b[2J gone")
    done = run("verify", arn, "--tenant", "acme", "--config", str(account.config))
    assert "\x1b" not in done.output
    assert "gone" in done.output


def test_the_settings_must_have_the_store(account: Account, tmp_path: Path) -> None:
    arn = account.key()
    done = run("verify", arn, "--store", "hsm", "--config", str(account.config))
    assert done.exit_code == 2
    assert "has aws of kind aws_kms" in done.stderr
    (tmp_path / "none.toml").write_text('[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n')
    done = run("verify", arn, "--config", str(tmp_path / "none.toml"))
    assert "say --store NAME" in done.stderr
    assert run("verify", arn, "--config", str(tmp_path / "missing.toml")).exit_code == 2
    assert run("verify", "--config", str(account.config)).exit_code == 2
    account.settings(role=False, more='profile = "nobody"')
    done = run("verify", arn, "--config", str(account.config))
    assert done.exit_code == 1
    assert "nobody" in done.stderr

"""``ownkey aws verify``: what it finds on a customer's account, and what it says to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, trust_policy
from support.aws_commands import ACCESS, CANARY_KEY, ROLE, Account, forget_this_machine, run
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms

# Nothing listens there.
NOWHERE = "http://127.0.0.1:1"


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
    assert any(line.startswith("eu-west-1  other tenants") and " pass  AWS denied" in line for line in lines)


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
    assert checks(failures) == ["DescribeKey", "wrap"]
    assert all(f"(KMS at {account.kms.url})" in one["seen"] for one in failures)
    assert all("endpoint_url" in one["advice"] for one in failures)


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


def test_a_profile_that_is_missing_is_told_with_its_setting(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    account.settings(role=False, more='profile = "nobody"')
    done = run("verify", account.key(), "--config", str(account.config))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no such AWS profile: check profile 'nobody' of [key_stores.aws] in" in done.stderr
    account.settings(role=False)
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    done = run("verify", account.key(), "--config", str(account.config))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "check profile 'somebody', which AWS_PROFILE names" in done.stderr


def without_credentials(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


def test_a_key_is_checked_where_sts_is_out_of_reach(account: Account) -> None:
    """A VPC endpoint for KMS alone: the server uses the key, and so does the check."""
    arn = account.key(key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,), inspects=True)))
    account.settings(role=False, sts=NOWHERE)
    found = account.verify(arn)
    warning = found["warn"][0]
    assert warning["check"] == "access"
    assert f"AWS cannot be reached (STS at {NOWHERE})" in warning["seen"]
    assert "set sts_endpoint_url" in warning["advice"]
    assert {"DescribeKey", "wrap", "unwrap", "other tenants"} <= set(checks(found["pass"]))


def test_a_role_that_cannot_be_asked_for_is_no_fault_of_its_trust(account: Account) -> None:
    account.settings(role=True, sts=NOWHERE)
    [failure] = account.verify(account.key(), code=1)["fail"]
    assert f"AWS cannot be reached (STS at {NOWHERE})" in failure["seen"]
    assert "set sts_endpoint_url" in failure["advice"]
    assert "trust" not in failure["advice"]


@pytest.mark.parametrize("role", [True, False])
def test_credentials_that_are_none_halves_or_over_are_told_as_the_server_tells_them(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, role: bool
) -> None:
    account.settings(role=role)
    arn = account.key()
    account.kms.fail("*", "ExpiredToken", "The security token included in the request is expired")
    [expired] = account.verify(arn, code=1)["fail"]
    assert (expired["check"], expired["advice"]) == ("access", "AWS refuses our own credentials: renew them")
    account.kms.heal()
    without_credentials(monkeypatch, tmp_path)
    [none] = account.verify(arn, code=1)["fail"]
    assert none["seen"].startswith("we have no AWS credentials: set profile, or the environment's")
    assert "trust" not in none["advice"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    [half] = account.verify(arn, code=1)["fail"]
    assert half["seen"].startswith("our AWS credentials are incomplete (AWS_SECRET_ACCESS_KEY)")


def test_what_was_sent_to_get_a_role_is_shown(account: Account) -> None:
    [failure] = account.verify(account.key(), tenant="umbrella", code=1)["fail"]
    assert f"asked for role {ROLE}, external id ownkey-umbrella, session tag ownkey:tenant=umbrella" in failure["seen"]
    assert "trust policy" in failure["advice"]


def test_a_policy_of_ours_that_aws_names_is_what_to_mend(account: Account) -> None:
    words = "User: ownkey is not authorized, because no identity-based policy allows the"
    account.settings(role=False)
    arn = account.key(key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,))))
    account.kms.fail("GenerateDataKey", "AccessDeniedException", f"{words} kms:GenerateDataKey action")
    account.kms.fail("DescribeKey", "AccessDeniedException", f"{words} kms:DescribeKey action")
    found = account.verify(arn, code=1)
    [wrap] = found["fail"]
    [looked] = [one for one in found["warn"] if one["check"] == "DescribeKey"]
    for one, action in ((wrap, "kms:GenerateDataKey"), (looked, "kms:DescribeKey")):
        assert "an identity-based policy of our own: allow it there" in one["advice"]
        assert action in one["advice"]
        assert "key-policy" not in one["advice"]
    account.settings(role=True)
    account.kms.fail("AssumeRole", "AccessDenied", f"{words} sts:AssumeRole action")
    [failure] = account.verify(account.key(), code=1)["fail"]
    assert failure["advice"] == "AWS denies us the role by an identity-based policy of our own: allow it there"


def test_an_identity_based_policy_of_the_customers_role_is_not_ours(account: Account) -> None:
    account.kms.fail(
        "GenerateDataKey",
        "AccessDeniedException",
        "User: ownkey is not authorized, because no identity-based policy allows it",
    )
    [failure] = account.verify(account.key(), code=1)["fail"]
    assert "key-policy" in failure["advice"]


def test_what_the_document_says_and_what_aws_did_do_not_contradict(account: Account) -> None:
    policy = key_policy(ACCESS)
    del policy["Statement"][3]
    policy["Statement"].append({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"})
    found = account.verify(account.key(policy), code=1)
    [document] = [one for one in found["pass"] if one["check"] == "policy: tenant's context"]
    [done] = [one for one in found["warn"] if one["check"] == "other tenants"]
    assert document["seen"] == "the document says that what lets us in by name asks for ownkey:tenant = acme"
    assert done["seen"].startswith("AWS served a context of another tenant")
    assert "missing" not in done["seen"]


def test_settings_that_cannot_tell_a_revocation_are_warned_of(account: Account) -> None:
    arn = account.key()
    account.settings(role=True, canaries=False)
    warnings = account.verify(arn)["warn"]
    assert checks(warnings) == ["canary_keys", "canary_role"]
    assert all("misconfigured, and not as revoked" in one["seen"] for one in warnings)
    account.settings(role=True)
    there = account.verify(account.key(region="eu-central-1"))["warn"]
    assert checks(there) == ["canary_keys"], "a canary in another region proves nothing"
    assert "there is none in eu-central-1:" in there[0]["seen"]
    account.settings(role=True, canaries=False)
    account.settings(role=False, canaries=False)
    own = account.key(key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,), inspects=True)))
    assert "canary_role" not in checks(account.verify(own)["warn"])
    assert "canary_keys" in checks(account.verify(own)["warn"])


def test_what_enrolment_refuses_does_not_pass(account: Account) -> None:
    arn = account.key()
    for wrong, says in (
        (arn.replace("eu-west-1", "eu-west-9"), "no region eu-west-9 of AWS KMS is known here"),
        (arn.replace("arn:aws:", "arn:aws-cn:"), "is in partition aws, not aws-cn"),
        (CANARY_KEY, "canary key"),
    ):
        calls = sum(account.kms.counts.values())
        [failure] = account.verify(wrong, code=1)["fail"]
        assert says in failure["seen"]
        assert sum(account.kms.counts.values()) == calls, "it was used all the same"


def test_keys_that_are_not_related_are_told_so(account: Account) -> None:
    arn = account.key(multi_region=True)
    account.kms.replicate(arn, "us-east-1")
    other = account.key(region="us-east-1")
    found = account.verify(arn, other)
    assert checks(found["warn"]) == ["one key", "multi-Region"]
    assert "these are 2 keys" in found["warn"][0]["seen"]
    assert "not checked here" not in found["warn"][1]["seen"]
    assert "another key was given in: us-east-1" in found["warn"][1]["seen"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ((ACCOUNT, ACCOUNT[:-1]), "an account of 11 digits, and an account has 12"),
        ((ACCOUNT, "acme"), "an account that is no number"),
        (("arn:aws:", "arn:gcp:"), "no partition"),
        ((":kms:", ":s3:"), "no service of keys"),
        (("eu-west-1", "europe"), "no region"),
        (("key/", "alias/"), "ARN of an alias"),
        (("key/", "key/x"), "no key's id"),
    ],
)
def test_what_is_wrong_with_an_arn_is_said(account: Account, changed: tuple[str, str], says: str) -> None:
    [failure] = account.verify(account.key().replace(*changed), code=1)["fail"]
    assert says in failure["seen"]
    assert "a key is named by its ARN, such as" in failure["seen"]

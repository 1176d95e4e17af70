"""What `--revoke` says, and what it cannot say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.assets import AssetClass
from ownkey_server.keystores.aws.scopes import BRANCH_BY_DEFAULT, CONTEXT_KEY, Scope, ScopeInvalid


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("class=phone_voicemail", {"StringEquals": {"kms:EncryptionContext:ownkey:asset-class": "phone_voicemail"}}),
        ("group=finance", {"StringEquals": {"kms:EncryptionContext:ownkey:group": "finance"}}),
        ("asset=call-7", {"StringEquals": {"kms:EncryptionContext:ownkey:asset-id": "call-7"}}),
        ("hour=2026-11-23T16", {"StringEquals": {"kms:EncryptionContext:ownkey:hour": "2026-11-23T16"}}),
        ("hour=2026-11-23T*", {"StringLike": {"kms:EncryptionContext:ownkey:hour": "2026-11-23T*"}}),
        (
            "hour=2026-*, group=finance",
            {
                "StringEquals": {"kms:EncryptionContext:ownkey:group": "finance"},
                "StringLike": {"kms:EncryptionContext:ownkey:hour": "2026-*"},
            },
        ),
        # Neither a wildcard nor a variable of a policy: what stands there is meant.
        ("asset=*", {"StringEquals": {"kms:EncryptionContext:ownkey:asset-id": "*"}}),
        ("asset=a,,b", {"StringEquals": {"kms:EncryptionContext:ownkey:asset-id": "a,b"}}),
        ("asset=a${aws:x}", {"StringEquals": {"kms:EncryptionContext:ownkey:asset-id": "a${$}{aws:x}"}}),
    ],
)
def test_a_scope_becomes_conditions_that_must_all_hold(text: str, conditions: dict[str, dict[str, str]]) -> None:
    assert Scope.parse(text).conditions == conditions


def test_everything_is_a_scope_of_its_own() -> None:
    scope = Scope.parse("all")
    assert (str(scope), scope.sid, scope.is_everything) == ("all", "OwnkeyRevokeAll", True)
    assert not Scope.parse("hour=2026-*").is_everything


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "class=VALUE, group=VALUE, asset=VALUE, hour=VALUE"),
        ("klass=phone_voicemail", "class=VALUE"),
        ("all,asset=a", "all by itself"),
        ("ALL", "all by itself"),
        ("asset=call-7,grup=finance", "'grup=finance' is no pair"),
        ("asset=a,b", "'b' is no pair"),
        ("class=voicemail", "there are: meeting_recording, "),
        ("class=phone_voicemail,class=phone_mms", "give two scopes"),
        ("class=", "there is no class ''"),
        ("group=Finance", "no group's id"),
        ("group=fin*", "no group's id"),
        ("asset=", "1 to 256 printable"),
        ("asset=call 7", "1 to 256 printable"),
        (f"asset={'x' * 257}", "1 to 256 printable"),
        ("hour=2026-11-23", "2026-11-23T* for a day"),
        ("hour=2026-11-23T24", "is no hour"),
        ("hour=2026-13-*", "is no hour"),
        ("hour=2026-02-30T*", "is no hour"),
        ("hour=*", "is no hour"),
        ("hour=20*", "is no hour"),
        ("hour=2026-11-23T?6", "is no hour"),
        ("hour=2026-11-23T16*", "is no hour"),
        ("hour=2026-11-23T16:00", "is no hour"),
        ("hour=\uff12026-11-23T16", "is no hour"),
    ],
)
def test_what_says_no_scope_is_refused_with_what_there_is(text: str, says: str) -> None:
    with pytest.raises(ScopeInvalid) as refused:
        Scope.parse(text)
    assert says in str(refused.value)


def test_whatever_is_less_than_all_may_miss_what_branch_keys_wrap() -> None:
    """A tenant's policy may wrap any class by branch keys, and a scope does not know it."""
    for one in AssetClass:
        assert Scope.parse(f"class={one}").may_miss_branches
        assert Scope.parse(f"class={one}").is_branched_by_default is (one in BRANCH_BY_DEFAULT)
    assert Scope.parse("class=phone_recording,group=finance").may_miss_branches
    assert Scope.parse("group=finance").may_miss_branches
    assert not Scope.parse("group=finance").is_branched_by_default
    assert not Scope.parse("all").may_miss_branches


@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256))
def test_whatever_an_asset_is_called_it_can_be_revoked_alone(asset: str) -> None:
    scope = Scope.parse("asset=" + asset.replace(",", ",,"))
    assert scope.asset == asset
    assert Scope.parse(str(scope)) == scope
    [value] = scope.conditions["StringEquals"].values()
    assert value.replace("${$}", "$") == asset
    assert scope.sid.isalnum()


@given(st.text(max_size=60))
def test_no_text_is_more_than_refused(text: str) -> None:
    try:
        scope = Scope.parse(text)
    except ScopeInvalid:
        return
    assert all(name.startswith(CONTEXT_KEY) for pairs in scope.conditions.values() for name in pairs)


def test_the_id_of_a_statement_is_its_scopes_alone() -> None:
    texts = ["class=phone_mms", "asset=phone_mms", "class=phone_mms,asset=a", "asset=b", "asset=a,,b", "group=b"]
    sids = [Scope.parse(text).sid for text in texts]
    assert len(set(sids)) == len(texts)
    assert Scope.parse("asset=a,class=phone_mms").sid == sids[2]

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.assets import Asset, AssetClass, AssetOrigin
from ownkey_server.domain.policy import Decision, Effect, Outcome, Policy, Rule, Wrapping, evaluate, explain

NOW = datetime(2026, 11, 23, 16, 30, tzinfo=UTC)
MAIN, FINANCE = Outcome(Effect.ALLOW, "main"), Outcome(Effect.ALLOW, "finance")
DENY, PROVIDER = Outcome(Effect.DENY), Outcome(Effect.PROVIDER_KEY)


def asset(**facts: object) -> Asset:
    return Asset(**{"tenant": "acme", "asset_class": AssetClass.PHONE_RECORDING, "asset_id": "call-1"} | facts)  # type: ignore[arg-type]


def decide(*rules: Rule, default: Outcome = DENY, groups: frozenset[str] = frozenset(), **facts: object) -> Decision:
    return evaluate(Policy(rules, default), asset(**facts), groups, NOW)


def test_without_a_matching_rule_the_default_decides() -> None:
    rule = Rule("voicemail", MAIN, asset_classes=frozenset({AssetClass.PHONE_VOICEMAIL}))
    assert decide(rule) == Decision(DENY, "default")


def test_the_first_matching_rule_decides() -> None:
    assert decide(Rule("first", PROVIDER), Rule("second", MAIN)) == Decision(PROVIDER, "first")


def test_every_condition_of_a_rule_must_hold() -> None:
    rule = Rule(
        "uploaded voicemail",
        MAIN,
        asset_classes=frozenset({AssetClass.PHONE_VOICEMAIL}),
        origins=frozenset({AssetOrigin.UPLOADED}),
    )
    assert decide(rule, asset_class=AssetClass.PHONE_VOICEMAIL).outcome == DENY
    assert decide(rule, origin=AssetOrigin.UPLOADED).outcome == DENY
    assert decide(rule, asset_class=AssetClass.PHONE_VOICEMAIL, origin=AssetOrigin.UPLOADED).outcome == MAIN


def test_a_user_or_a_group_is_enough_and_the_matching_group_is_told() -> None:
    rule = Rule("finance", FINANCE, users=frozenset({"cfo"}), groups=frozenset({"finance", "audit"}))
    assert decide(rule, user="cfo") == Decision(FINANCE, "finance", "")
    assert decide(rule, user="frida", groups=frozenset({"finance", "sales"})) == Decision(FINANCE, "finance", "finance")
    assert decide(rule, group="audit") == Decision(FINANCE, "finance", "audit")
    assert decide(rule, user="someone", groups=frozenset({"sales"})).outcome == DENY
    assert decide(rule).outcome == DENY


def test_of_several_matching_groups_always_the_same_one_is_told() -> None:
    rule = Rule("both", MAIN, groups=frozenset({"zebra", "ant"}))
    assert decide(rule, user="u", groups=frozenset({"zebra", "ant"})).group == "ant"


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (NOW - timedelta(seconds=1), PROVIDER),
        (NOW, MAIN),
        (NOW + timedelta(seconds=1), MAIN),
        (None, MAIN),
    ],
)
def test_content_from_before_a_time_is_split_exactly_there(created: datetime | None, expected: Outcome) -> None:
    rules = (Rule("before", PROVIDER, created_before=NOW), Rule("since", MAIN, created_from=NOW))
    assert decide(*rules, create_time=created).outcome == expected


def test_an_outcome_names_a_key_exactly_when_it_allows() -> None:
    with pytest.raises(ValueError, match="exactly when it allows"):
        Outcome(Effect.ALLOW)
    with pytest.raises(ValueError, match="exactly when it allows"):
        Outcome(Effect.DENY, "main")


NAMES = st.sampled_from(["", "a", "b", "c"])
OUTCOMES = st.sampled_from([MAIN, FINANCE, DENY, PROVIDER])
TIMES = st.none() | st.datetimes(timezones=st.just(UTC))
RULES = st.builds(
    Rule,
    name=st.uuids().map(str),
    outcome=OUTCOMES,
    asset_classes=st.frozensets(st.sampled_from(AssetClass), max_size=3),
    users=st.frozensets(NAMES.filter(bool), max_size=2),
    groups=st.frozensets(NAMES.filter(bool), max_size=2),
    origins=st.frozensets(st.sampled_from(AssetOrigin)),
    created_from=TIMES,
    created_before=TIMES,
)
ASSETS = st.builds(
    Asset,
    tenant=st.just("acme"),
    asset_class=st.sampled_from(AssetClass),
    asset_id=st.text(max_size=5),
    origin=st.sampled_from(AssetOrigin),
    user=NAMES,
    group=NAMES,
    create_time=TIMES,
)
POLICIES = st.builds(Policy, st.lists(RULES, max_size=6).map(tuple), OUTCOMES)


@given(POLICIES, ASSETS, st.frozensets(NAMES.filter(bool)), st.datetimes(timezones=st.just(UTC)))
def test_every_policy_decides_every_asset_by_its_default_or_one_of_its_rules(
    policy: Policy, subject: Asset, groups: frozenset[str], now: datetime
) -> None:
    decision = evaluate(policy, subject, groups, now)
    outcomes = {rule.name: rule.outcome for rule in policy.rules} | {"default": policy.default}
    assert outcomes[decision.rule] == decision.outcome
    assert decision == evaluate(policy, subject, groups, now)
    assert explain(decision, subject)


@given(POLICIES, ASSETS, st.frozensets(NAMES.filter(bool)), st.datetimes(timezones=st.just(UTC)))
def test_a_rule_that_denies_everything_put_first_leaves_nothing_allowed(
    policy: Policy, subject: Asset, groups: frozenset[str], now: datetime
) -> None:
    closed = Policy((Rule("closed", DENY), *policy.rules), policy.default)
    decision = evaluate(closed, subject, groups, now)
    assert (decision.outcome, decision.rule, decision.group) == (DENY, "closed", "")


@pytest.mark.parametrize("asset_class", AssetClass)
def test_tokens_chats_and_voicemails_go_through_a_branch_key_unless_a_policy_says_otherwise(
    asset_class: AssetClass,
) -> None:
    small = {"calendar_token_rooms", "calendar_token_user", "teams_token", "team_chat", "meeting_chat"}
    expected = Wrapping.BRANCH if asset_class.value in {*small, "phone_voicemail"} else Wrapping.DIRECT
    policy = Policy((Rule("first", PROVIDER, users=frozenset({"u"})),), MAIN)
    for user in ("u", ""):
        decision = evaluate(policy, Asset("acme", asset_class, "1", user=user), frozenset(), NOW)
        assert decision.wrapping is expected
        way = "through a branch key" if expected is Wrapping.BRANCH else "directly"
        assert explain(decision, Asset("acme", asset_class, "1")).endswith(way)
    for chosen in Wrapping:
        policy = Policy((), MAIN, {asset_class: chosen})
        assert evaluate(policy, Asset("acme", asset_class, "1"), frozenset(), NOW).wrapping is chosen

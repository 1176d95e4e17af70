"""Which rule is about a call, and what it says in each state of a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey.gate import Choices, Facts, Gate, KeySight, NumberInvalid, Numbers, Rule, decide, spellings

STATES = ["available", "degraded", "unreachable", "revoked", "misconfigured", "unknown"]
MODES = ["allow", "allow_no_recording", "refuse"]
BAD = [one for one in STATES if one not in ("available", "degraded")]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", MODES)
def test_the_matrix_of_states_and_choices(state: str, mode: str) -> None:
    others = dict.fromkeys(BAD, "refuse" if mode == "allow" else "allow")
    verdict = decide(Rule("r", Choices(**others | {state: mode} if state in BAD else others)), [KeySight("k", state)])
    if state not in BAD:
        assert (verdict.decision, verdict.reason, verdict.sip_status) == ("allow", "key_available", 0)
        return
    assert verdict.decision == mode
    assert verdict.reason == ("gating_off" if mode == "allow" else f"key_{state}")
    assert verdict.sip_status == (0 if mode != "refuse" else 403 if state == "revoked" else 503)


@pytest.mark.parametrize("state", BAD)
@pytest.mark.parametrize("worked", [None, 0.0, 59.0, 60.0, 61.0])
@pytest.mark.parametrize("taken", [False, True])
def test_grace_bridges_an_outage_for_its_time_and_never_a_revocation(
    state: str, worked: float | None, taken: bool
) -> None:
    rule = Rule("r", Choices("refuse", "refuse", "refuse", "refuse", grace=60.0))
    verdict = decide(rule, [KeySight("k", state, worked=worked, taken=taken)])
    graced = state in ("unreachable", "unknown") and worked is not None and worked < 60 and not taken
    assert (verdict.decision, verdict.reason == "grace") == (("allow", True) if graced else ("refuse", False))
    assert verdict.grace_left == (60 - worked if graced and worked is not None else None)


@given(st.sampled_from(MODES), st.sampled_from(MODES), st.sampled_from(["unreachable", "unknown", "misconfigured"]))
def test_pulling_the_plug_after_a_revocation_allows_nothing_that_the_revocation_did_not(
    revoked: str, other: str, state: str
) -> None:
    rule = Rule("r", Choices(revoked, other, other, other))
    decided = decide(rule, [KeySight("k", state, taken=True)]).decision
    assert MODES.index(decided) == max(MODES.index(revoked), MODES.index(other))


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=5), st.tuples(*[st.sampled_from(MODES)] * 4))
def test_of_several_keys_the_strictest_decision_counts(states: list[str], modes: tuple[str, ...]) -> None:
    rule = Rule("r", Choices(*modes))
    sights = [KeySight(f"k{index}", state) for index, state in enumerate(states)]
    together = decide(rule, sights)
    alone = [decide(rule, [sight]).decision for sight in sights]
    assert together.decision == max(alone, key=MODES.index)
    if "revoked" in states and together.decision == rule.choices.revoked:
        assert together.key.state == "revoked"


BERLIN = Numbers.of(["+4930"])
CONDITIONS: list[tuple[dict[str, object], dict[str, object], dict[str, object]]] = [
    ({"sites": frozenset({"berlin"})}, {"site": "berlin"}, {"site": "rome"}),
    ({"queues": frozenset({"support"})}, {"queue": "support"}, {}),
    ({"directions": frozenset({"inbound"})}, {"direction": "inbound"}, {"direction": ""}),
    ({"groups": frozenset({"legal"})}, {"groups": frozenset({"legal", "x"})}, {"groups": frozenset({"x"})}),
    ({"stores": frozenset({"phone_recording"})}, {"stores": ("phone_recording", "x")}, {"stores": ("x",)}),
    ({"callers": BERLIN}, {"caller": "tel:+49-30-1234"}, {"caller": "+4940123"}),
    ({"callees": BERLIN}, {"callee": "sip:+49301234@pbx;user=phone"}, {"callee": "alice@example.org"}),
]


@pytest.mark.parametrize(("condition", "within", "outside"), CONDITIONS)
def test_a_condition_holds_within_it_and_not_outside(
    condition: dict[str, object], within: dict[str, object], outside: dict[str, object]
) -> None:
    gate = Gate((Rule("it", Choices(), **condition), Rule("default", Choices())))  # type: ignore[arg-type]
    assert gate.rule_for(Facts(**within)).name == "it"  # type: ignore[arg-type]
    assert gate.rule_for(Facts(**outside)).name == "default"  # type: ignore[arg-type]


def test_all_conditions_must_hold_and_the_first_rule_that_matches_decides() -> None:
    both = Rule("both", Choices(), sites=frozenset({"b"}), queues=frozenset({"q"}))
    site = Rule("site", Choices(), sites=frozenset({"b"}))
    gate = Gate((both, site, Rule("default", Choices())))
    assert gate.rule_for(Facts(site="b", queue="q")).name == "both"
    assert gate.rule_for(Facts(site="b")).name == "site"
    assert gate.rule_for(Facts(queue="q")).name == "default"


@pytest.mark.parametrize(
    "written",
    [
        "+49301234567",
        "+49 (30) 123-45.67",
        "tel:+49-30-1234567",
        "tel:0301234567;phone-context=+49",
        "sip:+49301234567@pbx.example;user=phone",
        "<sips:%2B49301234567@pbx.example>",
        '"A <b>" <sip:+49301234567@x>',
        "0049301234567",
        "0301234567",
        "9 0301234567",
        "900493012345 67",
        "\uff0b\uff14\uff19301234567",
    ],
)
def test_a_number_is_known_in_every_way_of_writing(written: str) -> None:
    assert "+49301234567" in spellings(written, ("DE",), ("9",))


def test_the_american_way_out_counts_there() -> None:
    assert "+49301234567" in spellings("01149301234567", ("US",))
    assert "+15551234567" not in spellings("01149301234567", ("US",))


@pytest.mark.parametrize(
    ("ranges", "number", "within"),
    [
        (["+493012340000-+493012349999"], "+493012345678", True),
        (["+493012340000-+493012349999"], "+493012350000", False),
        (["+493012340000-+493012349999"], "+4930123456789", False),
        (["7000-7999"], "7123", True),
        (["7000-7999"], "71234", False),
        (["7001"], "7001", True),
        (["7001"], "70011", False),
        (["+1"], "7001", False),
    ],
)
def test_ranges_hold_what_is_between_their_ends(ranges: list[str], number: str, within: bool) -> None:
    assert Numbers.of(ranges).holds(spellings(number)) is within


@pytest.mark.parametrize("bad", ["", "+", "abc", "12-", "100-99", "1-22", "+1-2", "+12-+1", "1" * 16])
def test_what_is_no_range_is_refused_with_words(bad: str) -> None:
    with pytest.raises(NumberInvalid):
        Numbers.of([bad])


@given(st.text(max_size=80), st.lists(st.sampled_from(["US", "DE", "??", ""]), max_size=2), st.lists(st.text()))
def test_no_number_makes_it_fail(text: str, countries: list[str], prefixes: list[str]) -> None:
    assert isinstance(spellings(text, tuple(countries), tuple(prefixes)), frozenset)

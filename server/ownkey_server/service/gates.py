"""A tenant's gate and facts in the form in which ``ownkey.gate`` decides by them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

from ownkey import gate
from ownkey.gate.rules import DEFAULT
from ownkey_server.domain.call_gates import CallDirection, CallGate, Choices, GateRule


@lru_cache(maxsize=4096)
def compiled(told: CallGate) -> gate.Gate:
    """The gate as it decides. A call of which nobody knows the direction is gated whenever any is."""
    rules = [_rule(one) for one in told.rules]
    let_through = frozenset(CallDirection) - told.directions
    if let_through:
        rules.append(gate.Rule(DEFAULT, gate.Choices(), directions=frozenset(one.value for one in let_through)))
    rules.append(gate.Rule(DEFAULT, _choices(replace(told.choices, mode=told.mode))))
    return gate.Gate(tuple(rules), told.countries, told.outside_line_prefixes)


def _rule(one: GateRule) -> gate.Rule:
    return gate.Rule(
        one.name,
        _choices(one.choices),
        sites=one.sites,
        queues=one.queues,
        callers=gate.Numbers.of(one.callers),
        callees=gate.Numbers.of(one.callees),
        directions=_texts(one.directions),
        groups=one.groups,
        stores=_texts(one.stores),
    )


def _texts(names: Collection[str]) -> frozenset[str]:
    return frozenset(str(one) for one in names)


def _choices(told: Choices) -> gate.Choices:
    def of(state: str) -> str:
        return str(getattr(told, state) or told.mode)

    return gate.Choices(of("revoked"), of("unreachable"), of("unknown"), of("misconfigured"), float(told.grace))

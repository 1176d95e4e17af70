"""How calls are gated: pure rules, the same in the service and in a gate beside the caller (:mod:`ownkey.call_gate`).

An emergency call is told before anything here is asked (:mod:`ownkey.emergency`).
"""

from ownkey.gate.numbers import NumberInvalid, Numbers, spellings
from ownkey.gate.rules import Choices, Facts, Gate, KeySight, Rule, Verdict, decide

__all__ = ["Choices", "Facts", "Gate", "KeySight", "NumberInvalid", "Numbers", "Rule", "Verdict", "decide", "spellings"]

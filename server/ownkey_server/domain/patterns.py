"""What the patterns of names and ids ask for, as one would say it: nobody reads a regular expression in an error."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ID = "must be lower-case letters, digits and hyphens, with a letter or digit at both ends"
_PRINCIPAL = (
    "must be letters, digits and . _ / : @ + | = ~ % -, with a letter or digit at both ends,"
    " such as spiffe://example.org/recorder"
)
_USE = 'must be "deny", "provider_key" or "key:" and the id of a key'
_DIGITS = "must be 1 to 15 digits"

WORDS: Mapping[str, str] = {
    r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$": _ID,
    r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$": _ID,
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": f"{_ID}, at most 63",
    r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?|[*])$": f"{_ID}; or * for all tenants and the service",
    r"^[a-zA-Z0-9]([a-zA-Z0-9._/:@+|=~%-]*[a-zA-Z0-9])?$": _PRINCIPAL,
    r"^[a-z0-9]*$": "must be lower-case letters and digits alone",
    r"^[a-z0-9]+$": "must be lower-case letters and digits alone",
    r"^[^\x00]*$": "must not hold the character U+0000",
    r"^[ -~]*$": "must be ASCII characters alone, such as can be printed",
    r"^[!-~]+$": "must be ASCII characters alone, such as can be printed, without spaces",
    r"^(deny|provider_key|key:[a-z0-9-]{1,63})$": _USE,
    r"^(|deny|provider_key|key:[a-z0-9-]{1,63})$": _USE,
    r"^(|provider_key|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$": 'must be the id of a key, or "provider_key"',
    r"^(provider_key|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$": 'must be the id of a key, or "provider_key"',
    r"^[0-9a-f]{32}$": "must be 32 hexadecimal digits, such as 0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    r"^([0-9a-f]{32})?$": "must be 32 hexadecimal digits, such as 0f1e2d3c4b5a69788796a5b4c3d2e1f0, or empty",
    r"^[^\x00-\x1f\x7f]*$": "must not hold control characters",
    r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$": (
        "must be an address alone, such as ops@example.com"
    ),
    r"^[A-Z][A-Za-z]{1,63}$": "must be the name of a call, such as Unwrap",
    r"^[A-Z]{2}$": "must be the ISO 3166 code of a country, such as US",
    r"^[0-9]{1,15}$": _DIGITS,
    r"^([+]?[0-9]{1,15}|[+]?[0-9]{1,15}-[+]?[0-9]{1,15})$": (
        "must be a number range: +4930, 7001, 7000-7999 or +49301000-+49301999"
    ),
    r"^[a-zA-Z0-9_+=,.@/-]{1,512}$": "must be the role's name, with its path if it has one, and not its ARN",
    r"^[a-zA-Z0-9_+=,.@:/-]{2,128}$": "must be 2 to 128 letters, digits and . _ + = , @ : / -",
    r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[a-zA-Z0-9_+=,.@/-]{1,512}$": (
        "must be the ARN of a role, such as arn:aws:iam::111122223333:role/ownkey-canary"
    ),
}
_TOLD = re.compile(r"does not match regex pattern `(.*)`", re.DOTALL)


def in_words(message: str) -> str:
    """What a check of a contract says, without its pattern."""
    told = _TOLD.fullmatch(message)
    return WORDS.get(told[1], message) if told else message

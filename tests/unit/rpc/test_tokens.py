"""Whom a bearer token names, and when it names nobody: the claims and headers that tell one token from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ownkey_server.domain.clock import system_clock
from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc.tokens import Tokens
from ownkey_server.settings.access import IssuerSettings
from support.pki import TokenIssuer, now

OURS = TokenIssuer.audience


@pytest.fixture
def corp(tmp_path: Path) -> TokenIssuer:
    return TokenIssuer(tmp_path)


def tokens(issuer: TokenIssuer, **settings: Any) -> Tokens:
    """What takes tokens of that issuer alone."""
    return Tokens({"corp": _settings(issuer, **settings)}, system_clock)


def _settings(issuer: TokenIssuer, **settings: Any) -> IssuerSettings:
    known = {"issuer": issuer.issuer, "audience": issuer.audience, "jwks_file": issuer.jwks}
    return IssuerSettings.model_validate(known | settings)


async def ask(taken: Tokens, token: str) -> str:
    """Whom the token names, or why nobody."""
    try:
        return await taken.principal(token)
    except Unauthenticated as error:
        return f"refused: {error}"


def signed(issuer: TokenIssuer, payload: bytes, **header: Any) -> str:
    """Whatever is signed by the issuer."""
    return jwt.api_jws.encode(payload, issuer.keys["first"], "ES256", headers={"kid": "first"} | header)


def claims(**changes: Any) -> bytes:
    at = int(now().timestamp())
    said = {"iss": TokenIssuer.issuer, "aud": OURS, "sub": "ann", "iat": at - 10, "exp": at + 600}
    return json.dumps(said | changes).encode()


@pytest.mark.parametrize("verified", [None, False, "true", 1, "yes", [True], {"ann@example.com": True}])
async def test_an_address_that_its_issuer_did_not_verify_names_nobody(corp: TokenIssuer, verified: object) -> None:
    taken = tokens(corp, principal_claim="email")
    token = corp.token("x", email="ann@example.com", email_verified=verified)
    assert "email_verified" in await ask(taken, token)


async def test_one_that_it_verified_does_and_other_claims_need_no_such_word(corp: TokenIssuer) -> None:
    token = corp.token("x", email="ann@example.com", email_verified=True)
    assert await ask(tokens(corp, principal_claim="email"), token) == "corp/ann@example.com"
    assert await ask(tokens(corp), corp.token("ann", email="other@example.com")) == "corp/ann"


PARTIES: Mapping[str, tuple[dict[str, Any], list[str], bool]] = {
    "one audience, no party": ({}, [], True),
    "one audience, some party": ({"azp": "somebody"}, [], True),
    "one audience in a list": ({"aud": [OURS]}, [], True),
    "ours twice": ({"aud": [OURS, OURS]}, [], False),
    "several audiences, no party": ({"aud": [OURS, "account"]}, [], False),
    "several audiences, a foreign party": ({"aud": [OURS, "account"], "azp": "account"}, [], False),
    "several audiences, a party that is no text": ({"aud": [OURS, "account"], "azp": [OURS]}, [], False),
    "several audiences, ourselves": ({"aud": [OURS, "account"], "azp": OURS}, [], True),
    "several audiences, a party that is set": ({"aud": [OURS, "account"], "azp": "recorder"}, ["recorder"], True),
    "several audiences, ourselves while others are set": ({"aud": [OURS, "account"], "azp": OURS}, ["recorder"], False),
    "a party that is set": ({"azp": "recorder"}, ["recorder", "player"], True),
    "a party that is not": ({"azp": "somebody"}, ["recorder"], False),
    "no party where some are set": ({}, ["recorder"], False),
    "an empty party": ({"azp": ""}, ["recorder"], False),
}


@pytest.mark.parametrize("name", PARTIES)
async def test_for_whom_a_token_was_made_counts(corp: TokenIssuer, name: str) -> None:
    said, parties, good = PARTIES[name]
    found = await ask(tokens(corp, authorized_parties=parties), corp.token("ann", **said))
    assert (found == "corp/ann") is good, found
    assert good or "azp" in found


TYPES = [
    ("at+jwt", "at+jwt", True),
    ("at+jwt", "application/at+jwt", True),
    ("at+jwt", "AT+JWT", True),
    ("application/at+jwt", "at+jwt", True),
    ("at+jwt", "JWT", False),
    ("at+jwt", None, False),
    ("at+jwt", "", False),
    ("at+jwt", "at+jwt ", False),
    ("JWT", "JWT", True),
    ("JWT", "logout+jwt", False),
    (None, "anything", True),
    (None, None, True),
]


@pytest.mark.parametrize(("wanted", "given", "good"), TYPES)
async def test_the_type_of_token_counts_where_it_is_set(
    corp: TokenIssuer, wanted: str | None, given: str | None, good: bool
) -> None:
    taken = tokens(corp, **({"token_type": wanted} if wanted else {}))
    found = await ask(taken, signed(corp, claims(), typ=given))
    assert (found == "corp/ann") is good, found
    assert good or "typ" in found


async def test_a_type_that_is_no_text_names_nobody(corp: TokenIssuer) -> None:
    token = _with_header(signed(corp, claims()), typ=["at+jwt"])
    assert (await ask(tokens(corp, token_type="at+jwt"), token)).startswith("refused")


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["unknown"], [], "b64", None, [1], ["b64", "unknown"]])
async def test_a_token_with_anything_critical_names_nobody(corp: TokenIssuer, crit: object) -> None:
    made = _signed_as_it_is(corp, {"alg": "ES256", "kid": "first", "crit": crit, "exp": 1, "unknown": 1, "b64": True})
    assert (await ask(tokens(corp), made)).startswith("refused")


async def test_one_whose_payload_is_not_encoded_names_nobody(corp: TokenIssuer) -> None:
    for header in ({"b64": False}, {"b64": False, "crit": ["b64"]}):
        made = _signed_as_it_is(corp, {"alg": "ES256", "kid": "first"} | header)
        assert (await ask(tokens(corp), made)).startswith("refused")


def _encoded(what: Any) -> str:
    return jwt.utils.base64url_encode(json.dumps(what).encode()).decode()


def _signed_as_it_is(issuer: TokenIssuer, header: dict[str, Any]) -> str:
    """A token with that header, past what a library would refuse to sign."""
    text = f"{_encoded(header)}.{jwt.utils.base64url_encode(claims()).decode()}"
    signature = jwt.algorithms.get_default_algorithms()["ES256"].sign(text.encode(), issuer.keys["first"])
    return f"{text}.{jwt.utils.base64url_encode(signature).decode()}"


def _with_header(token: str, **changes: Any) -> str:
    head, rest = token.split(".", 1)
    said = json.loads(jwt.utils.base64url_decode(head)) | changes
    return f"{_encoded(said)}.{rest}"


async def test_what_is_made_by_hand_here_is_taken_when_nothing_is_wrong_with_it(corp: TokenIssuer) -> None:
    assert await ask(tokens(corp), _signed_as_it_is(corp, {"alg": "ES256", "kid": "first"})) == "corp/ann"


async def test_a_token_in_a_token_names_nobody(corp: TokenIssuer) -> None:
    unsigned = f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{jwt.utils.base64url_encode(claims()).decode()}."
    good = corp.token("ann")
    inside = {
        "unsigned in a signed one": signed(corp, unsigned.encode(), cty="JWT"),
        "unsigned in quotes in a signed one": signed(corp, json.dumps(unsigned).encode(), cty="JWT"),
        "signed in a signed one": signed(corp, good.encode(), cty="JWT"),
        "signed in an unsigned one": f"{_encoded({'alg': 'none', 'cty': 'JWT'})}.{_encoded(good)}.",
        "signed, with an unsigned one's header": f"{_encoded({'alg': 'none'})}.{good.split('.', 1)[1]}",
        "unsigned, with a signed one's signature": f"{unsigned}{good.rsplit('.', 1)[1]}",
        "encrypted": ".".join([_encoded({"alg": "dir", "enc": "A256GCM", "cty": "JWT"}), "", "AAAA", "AAAA", "AAAA"]),
        "unsigned in the header": _with_header(good, jwt=unsigned),
    }
    for algorithm in ("none", "None", "NONE", "nOnE", "", None, ["ES256"], {"ES256": 1}, "HS256", "ES256 "):
        inside[f"algorithm {algorithm}"] = _with_header(good, alg=algorithm)
    for name, token in inside.items():
        assert (await ask(tokens(corp), token)).startswith("refused"), name


@pytest.fixture
def both(tmp_path: Path, corp: TokenIssuer) -> tuple[TokenIssuer, Tokens]:
    """Another issuer beside the first, and what takes the tokens of both."""
    (tmp_path / "other").mkdir()
    other = TokenIssuer(tmp_path / "other")
    other.issuer = "https://other.example.org"
    other.keys["second"] = ec.generate_private_key(ec.SECP256R1())
    other.write()
    return other, Tokens({"corp": _settings(corp), "other": _settings(other)}, system_clock)


async def test_each_issuer_s_keys_sign_for_itself_alone(corp: TokenIssuer, both: tuple[TokenIssuer, Tokens]) -> None:
    other, taken = both
    assert await ask(taken, corp.token("ann")) == "corp/ann"
    assert await ask(taken, other.token("ann")) == "other/ann"
    assert await ask(taken, other.token("ann", kid="second")) == "other/ann"
    # The same id, another key; and an id that only the other issuer has.
    assert "signature" in await ask(taken, other.token("ann", iss=corp.issuer))
    assert "key that its issuer does not have" in await ask(taken, other.token("ann", kid="second", iss=corp.issuer))
    assert "signature" in await ask(taken, corp.token("ann", iss=other.issuer))
    assert "not know" in await ask(taken, signed(corp, claims(iss=[corp.issuer, other.issuer])))


@pytest.mark.parametrize("header", ["jwk", "jku", "x5u", "x5c"])
async def test_a_key_that_the_token_brings_along_is_not_looked_at(corp: TokenIssuer, header: str) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    key = jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key(), as_dict=True) | {"kid": "first"}
    brought = {"jwk": key, "jku": "https://evil.example.org/keys", "x5u": "https://evil.example.org/c", "x5c": ["AAAA"]}
    token = jwt.encode(json.loads(claims()), stranger, "ES256", headers={"kid": "first", header: brought[header]})
    assert "signature" in await ask(tokens(corp), token)

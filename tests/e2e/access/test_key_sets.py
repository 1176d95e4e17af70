"""What an issuer publishes and is no key set, each against an issuer that was never asked before."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.access.test_issuers import Publisher, ask, published
from ownkey_server.domain.errors import IssuerUnreachable
from ownkey_server.rpc import jwks
from ownkey_server.settings.access import IssuerSettings
from support.pki import TokenIssuer


@contextlib.contextmanager
def publishing(document: str, status: int = 200, location: str = "") -> Iterator[Publisher]:
    """An issuer's server, while it serves."""
    with Publisher() as publisher:
        publisher.document, publisher.status, publisher.location = document, status, location
        threading.Thread(target=publisher.serve_forever, daemon=True).start()
        try:
            yield publisher
        finally:
            publisher.shutdown()


@pytest.fixture
def tokens(tmp_path: Path) -> TokenIssuer:
    return TokenIssuer(tmp_path)


async def has_key(url: str) -> bool:
    """Whether the issuer's key is known; False when it is not known which keys it has."""
    keys = jwks.KeySet("corp", IssuerSettings(issuer=TokenIssuer.issuer, audience="ownkey", jwks_url=url))
    try:
        key, _ = await keys.key("first")
    except IssuerUnreachable:
        return False
    return key is not None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_though_the_right_keys_are_there(tokens: TokenIssuer, status: int) -> None:
    with publishing(tokens.document()) as other, publishing("", status, other.url) as issuer:
        assert not await has_key(issuer.url)
        assert (issuer.asked, other.asked) == (1, 0)
        assert await has_key(other.url), "they are right, and there"


def test_nor_does_a_server_follow_one(tmp_path: Path) -> None:
    with published(tmp_path) as (lab, publisher), publishing(lab.tokens.document()) as other:
        publisher.status, publisher.location = 302, other.url
        assert ask(lab.by_token(lab.tokens.token("ann"))) == "ISSUER_UNREACHABLE"
        assert "cannot be fetched" in lab.log
        assert (publisher.asked, other.asked) == (1, 0)


async def test_a_key_set_has_at_most_so_many_bytes_and_keys(tokens: TokenIssuer) -> None:
    good = tokens.document()
    one = json.loads(good)["keys"][0]

    def many(count: int) -> str:
        return json.dumps({"keys": [*({"kty": "oct", "k": "AAAA", "kid": str(n)} for n in range(count - 1)), one]})

    for document, taken in (
        (good, True),
        (good + " " * (jwks.MAX_BYTES - len(good)), True),
        (good + " " * (jwks.MAX_BYTES - len(good) + 1), False),
        (good + " " * 10 * jwks.MAX_BYTES, False),
        (many(jwks.MAX_KEYS), True),
        (many(jwks.MAX_KEYS + 1), False),
    ):
        with publishing(document) as issuer:
            assert await has_key(issuer.url) == taken, len(document)
            assert issuer.asked == 1


def _garbage(good: str) -> dict[str, str]:
    one = json.loads(good)["keys"][0]
    return {
        "nothing": "",
        "no JSON": "<html>sign in</html>",
        "half of it": good[: len(good) // 2],
        "two of it": good + good,
        "a number": "1",
        "a list": json.dumps([one]),
        "a key alone": json.dumps(one),
        "no list of keys": json.dumps({"keys": one}),
        "a text for keys": json.dumps({"keys": "none"}),
        "null for keys": json.dumps({"keys": None}),
        "another name": json.dumps({"Keys": [one]}),
        "a text as a key": json.dumps({"keys": [json.dumps(one)]}),
        "a key to encrypt with": json.dumps({"keys": [one | {"use": "enc"}]}),
        "a key without a point": json.dumps({"keys": [{k: v for k, v in one.items() if k != "x"}]}),
        "a point that is none": json.dumps({"keys": [one | {"x": one["y"]}]}),
        "a key without an id": json.dumps({"keys": [{k: v for k, v in one.items() if k != "kid"}]}),
        "an id that is no text": json.dumps({"keys": [one | {"kid": 1}]}),
        "another id": json.dumps({"keys": [one | {"kid": "First"}]}),
        "a shared secret": json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "kid": "first"}]}),
    }


@pytest.mark.parametrize("name", _garbage('{"keys": [{"x": 1, "y": 1}]}'))
async def test_garbage_gives_no_key(tokens: TokenIssuer, name: str) -> None:
    with publishing(_garbage(tokens.document())[name]) as issuer:
        assert not await has_key(issuer.url)
        assert issuer.asked == 1


async def test_what_follows_the_place_in_a_url_is_asked_with_and_is_in_no_log(
    tokens: TokenIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    for document, status in (
        (tokens.document(), 200),
        (tokens.document(), 503),
        ("no JSON", 200),
        (" " * 300_000, 200),
    ):
        with publishing(document, status) as issuer:
            found = await has_key(f"{issuer.url}?p=policy&code=hunter2")
            assert found == (document == tokens.document() and status == 200)
            assert issuer.url in caplog.text or found
            assert issuer.paths == ["/keys?p=policy&code=hunter2"]
    assert not await has_key("http://127.0.0.1:1/keys?code=hunter2")
    assert len(caplog.records) >= 4
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("status", [204, 400, 401, 404, 500, 503])
async def test_an_answer_that_is_no_success_gives_no_key(tokens: TokenIssuer, status: int) -> None:
    with publishing("" if status == 204 else tokens.document(), status) as issuer:
        assert not await has_key(issuer.url)

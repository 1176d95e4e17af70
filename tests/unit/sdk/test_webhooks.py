"""A receiver believes what ownkey signed just now, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import standardwebhooks

from ownkey import webhooks
from ownkey_server.domain.webhooks import headers, secret_bytes, secret_text

BODY = b'{"type": "test"}'
SECRET = secret_text(bytes(range(32)))
NOW = 1_800_000_000
PAGE = Path(__file__).resolve().parents[3] / "docs" / "notifications.md"


def signed(secret: str = SECRET, body: bytes = BODY, at: int = NOW) -> dict[str, str]:
    return dict(headers([secret_bytes(secret)], "msg_1", at, body))


def verify(given: dict[str, str], body: bytes = BODY, secret: str = SECRET) -> dict[str, object]:
    return webhooks.verify(secret, given, body, now=lambda: NOW)


def test_what_was_signed_is_believed_whatever_the_case_of_header_names() -> None:
    assert verify(signed()) == {"type": "test"}
    assert verify({name.upper(): value for name, value in signed().items()}) == {"type": "test"}
    assert verify(signed(at=NOW - 300)) == verify(signed(at=NOW + 300)) == {"type": "test"}


def test_one_good_signature_among_others_is_enough() -> None:
    good = signed()
    other = signed(secret_text(b"x" * 32))["webhook-signature"]
    assert verify({**good, "webhook-signature": f"v1a,AAAA {other} {good['webhook-signature']}"})


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(NOW - 1)},
        {"webhook-timestamp": "x"},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-timestamp": f"-{NOW}"},
        {"webhook-timestamp": "9" * 40},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1,\u00e4"},
        {"webhook-signature": "v2," + signed()["webhook-signature"][3:]},
        {"webhook-signature": signed()["webhook-signature"][3:]},
        {"webhook-signature": signed(secret_text(b"x" * 32))["webhook-signature"]},
    ],
)
def test_nothing_else_is_believed(change: dict[str, str]) -> None:
    with pytest.raises(webhooks.WebhookInvalid):
        verify({**signed(), **change})


def test_another_body_an_old_one_and_a_missing_header_are_not_believed() -> None:
    with pytest.raises(webhooks.WebhookInvalid, match="by this secret"):
        verify(signed(), BODY + b" ")
    for at in (NOW - 301, NOW + 301):
        with pytest.raises(webhooks.WebhookInvalid, match="too far"):
            verify(signed(at=at))
    for name in signed():
        given = signed()
        del given[name]
        with pytest.raises(webhooks.WebhookInvalid, match=name):
            verify(given)
    for body in (b"no json", b"[]"):
        with pytest.raises(webhooks.WebhookInvalid, match="JSON"):
            verify(signed(body=body), body)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", SECRET.removeprefix("whsec_"), "whsec_QUFB"])
def test_what_is_no_secret_is_told_without_it(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64") as caught:
        verify(signed(), secret=secret)
    assert "QUFB" not in str(caught.value)


def test_an_independent_library_reads_and_writes_the_same() -> None:
    now = datetime.now(UTC)
    library = standardwebhooks.Webhook(SECRET)
    assert library.sign("msg_1", now, BODY.decode()) == signed(at=int(now.timestamp()))["webhook-signature"]
    assert library.verify(BODY, signed(at=int(now.timestamp()))) == {"type": "test"}


def test_the_page_s_example_runs() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # our own page
    assert names["notice"] == {"test": 2432232314}

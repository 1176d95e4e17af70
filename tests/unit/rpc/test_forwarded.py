from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownkey_server.domain.errors import Unauthenticated
from ownkey_server.rpc import forwarded
from ownkey_server.settings.access import CertificateRules

RULES = CertificateRules(spiffe_trust_domains=["example.org"], dns_suffixes=["services.example.org"])
HASH = "Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"


@pytest.mark.parametrize(
    ("value", "principal"),
    [
        (f"By=spiffe://example.org/ownkey;{HASH};URI=spiffe://example.org/recorder", "spiffe://example.org/recorder"),
        ('Subject="CN=a;b,c\\"d";URI="spiffe://example.org/recorder"', "spiffe://example.org/recorder"),
        ("uri=spiffe://example.org/recorder", "spiffe://example.org/recorder"),
        (f"{HASH};DNS=recorder.services.example.org;DNS=other.example.net", "recorder.services.example.org"),
        ('URI=spiffe://example.org/recorder;Subject=""', "spiffe://example.org/recorder"),
    ],
)
def test_what_a_proxy_says_of_one_client(value: str, principal: str) -> None:
    assert forwarded.principal(value, RULES) == principal


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("URI=spiffe://example.org/a,URI=spiffe://example.org/b", "2 elements: set the proxy to SANITIZE_SET"),
        ("URI=spiffe://example.org/a,", "2 elements"),
        ("URI=spiffe://example.org/a;URI=spiffe://example.org/b", "several URIs"),
        ("URI=spiffe://example.com/a", "trust domain"),
        ("", "no name"),
        (HASH, "no name"),
        ("URI", "a pair has no value"),
        ('Subject="CN=a;URI=spiffe://example.org/a', "a quote does not end"),
        ('Subject="CN=a"x;URI=spiffe://example.org/a', "a quote does not end"),
        ("By=" + "a" * 20_000, "longer than"),
    ],
)
def test_what_names_nobody_for_certain(value: str, complaint: str) -> None:
    with pytest.raises(Unauthenticated, match=complaint):
        forwarded.principal(value, RULES)


def test_a_quoted_text_cannot_pass_for_a_pair() -> None:
    value = 'Subject="CN=x\\";URI=spiffe://example.org/admin;";URI=spiffe://example.org/recorder'
    assert forwarded.principal(value, RULES) == "spiffe://example.org/recorder"


@given(st.text(alphabet='abURI=;,"\\ :/.', max_size=60))
def test_whatever_comes_is_an_element_or_a_refusal(value: str) -> None:
    with contextlib.suppress(Unauthenticated):
        assert forwarded.parse(value)


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_was_quoted_comes_out_as_it_went_in(uri: str, subject: str) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    elements = forwarded.parse(f"Subject={quoted(subject)};URI={quoted(uri)}")
    assert [one.uris for one in elements] == [[uri]]

"""Whatever comes in by the network, Kamailio with the gate goes on, and lets nothing past the gate."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.kamailio import Kamailio

CALLEE = "sip:+15551234567@acme.example"
HEAD = (
    "Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{0}\r\nMax-Forwards: 70\r\nFrom: <sip:a@outside.example>;tag=1\r\n"
    "To: <sip:b@acme.example>\r\nCall-ID: {0}@torture\r\nCSeq: 1 INVITE\r\n"
)
# After RFC 4475, section by section: what is odd and valid, and what is broken.
TORTURE = {
    "3.1.1.1 a short tortuous INVITE": (
        "INVITE sip:vivekg@acme.example;unknownparam SIP/2.0\r\n"
        "TO :\r\n sip:vivekg@acme.example ;   tag    = 1918181833n\r\n"
        'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n'
        "MaX-fOrWaRdS: 0068\r\n"
        "Call-ID: wsinv.ndaksdj@192.0.2.1\r\nContent-Length   : 0\r\ncseq: 0009\r\n  INVITE\r\n"
        "Via  : SIP  /   2.0\r\n /UDP\r\n    127.0.0.1:9;branch=390skdjuw\r\ns :\r\n"
        "NewFangledHeader:   newfangled value\r\n"
        "UnknownHeaderWithUnusualValue: ;;,,;;,;\r\nContact:\r\n <sip:x@127.0.0.1;\r\n foo=bar>\r\n\r\n"
    ),
    "3.1.1.2 wide range of valid characters": (
        "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
        ":&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@acme.example SIP/2.0\r\n" + HEAD.format("intmeth") + "\r\n"
    ),
    "3.1.1.4 escaped nulls in URIs": "INVITE sip:null-%00-null@acme.example SIP/2.0\r\n"
    + HEAD.format("escnull")
    + "\r\n",
    "3.1.1.6 a long line": "INVITE " + CALLEE + " SIP/2.0\r\n" + HEAD.format("long") + "X: " + "x" * 20000 + "\r\n\r\n",
    "3.1.2.1 extraneous separators": 'INVITE sip:a@acme.example SIP/2.0\r\nContact: "Joe" <sip:joe@x>;;;;\r\n\r\n',
    "3.1.2.2 content length larger than the message": (
        "INVITE " + CALLEE + " SIP/2.0\r\n" + HEAD.format("clerr") + "Content-Length: 9999\r\n\r\nv=0\r\n"
    ),
    "3.1.2.3 negative content length": (
        "INVITE " + CALLEE + " SIP/2.0\r\n" + HEAD.format("ncl") + "Content-Length: -999\r\n\r\n"
    ),
    "3.1.2.4 overlarge scalars": (
        "REGISTER sip:acme.example SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKscalar02;ttl=99999\r\n"
        "To: <sip:user@acme.example>\r\nFrom: <sip:user@acme.example>;tag=239232jh3\r\n"
        "CSeq: 36893488147419103232 REGISTER\r\n"
        "Call-ID: scalar02\r\nMax-Forwards: 300\r\nExpires: 1" + "0" * 100 + "\r\n\r\n"
    ),
    "3.1.2.6 unterminated quoted string": (
        "INVITE " + CALLEE + ' SIP/2.0\r\nTo: "Mr. J. User <sip:j.user@example.com>\r\nFrom: sip:caller@x;tag=93334\r\n'
        "Max-Forwards: 10\r\nCall-ID: quotbal.aksdj\r\nCSeq: 8 INVITE\r\n"
        "Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKkdjuw39234\r\nContent-Length: 0\r\n\r\n"
    ),
    "3.1.2.7 angle brackets around the request URI": "INVITE <"
    + CALLEE
    + "> SIP/2.0\r\n"
    + HEAD.format("ltgtruri")
    + "\r\n",
    "3.1.2.8 white space in the request URI": (
        "INVITE sip:user@acme.example; lr SIP/2.0\r\n" + HEAD.format("lwsruri") + "\r\n"
    ),
    "3.1.2.9 spaces in the request line": "INVITE  " + CALLEE + "  SIP/2.0\r\n" + HEAD.format("lwsstart") + "\r\n",
    "3.1.2.11 escaped headers in the request URI": (
        "INVITE sip:user@acme.example?Route=%3Csip:example.com%3E SIP/2.0\r\n" + HEAD.format("escruri") + "\r\n"
    ),
    "3.1.2.15 bad version": "INVITE " + CALLEE + " SIP/7.0\r\n" + HEAD.format("badvers") + "\r\n",
    "3.1.2.16 methods that do not match": (
        "INVITE " + CALLEE + " SIP/2.0\r\n" + HEAD.format("mismatch").replace("1 INVITE", "1 OPTIONS") + "\r\n"
    ),
    "3.2.1 missing transaction identifier": "INVITE "
    + CALLEE
    + " SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK\r\n\r\n",
    "3.3.1 missing header fields": "INVITE " + CALLEE + " SIP/2.0\r\nCSeq: 193942 INVITE\r\n\r\n",
    "3.3.2 unknown scheme": "INVITE nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\r\n"
    + HEAD.format("unkscm")
    + "\r\n",
    "3.3.5 unknown scheme of From": "INVITE "
    + CALLEE
    + " SIP/2.0\r\n"
    + HEAD.format("u").replace("<sip:a@", "<x:a@")
    + "\r\n",
    "3.3.8 several values of single headers": "INVITE " + CALLEE + " SIP/2.0\r\n" + HEAD.format("m") * 3 + "\r\n",
    "a to-tag hidden in a display name": (
        "INVITE sip:1@nobody.example SIP/2.0\r\n" + HEAD.format("d").replace("To: <", 'To: ";tag=x" <') + "\r\n"
    ),
    "nothing": "",
    "line ends": "\r\n\r\n",
    "no SIP": "GET / HTTP/1.1\r\n\r\n",
    "an answer that nobody waits for": "SIP/2.0 200 OK\r\n" + HEAD.format("stray") + "\r\n",
}


def test_torture_messages_do_no_harm(proxy: Kamailio) -> None:
    with proxy.caller() as caller:
        for name, message in TORTURE.items():
            caller.send(message.encode("utf-8", "surrogateescape"))
            assert caller.invite("sip:911@acme.example").status == proxy.callee.ANSWER, name
            assert caller.invite("sip:+15551234567@nobody.example").status == 503, name
            assert caller.invite(CALLEE).status == proxy.callee.ANSWER, name
    assert "d@torture" not in proxy.callee.got
    assert "ownkey: the gate failed" not in proxy.log, proxy.log


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["sip:", "tel:", "urn:service:sos", "@", ";tag=", "<", ">", '"', "%", "%00", "\t", ":", "?", "acme.example"]
        ),
        st.text(st.characters(blacklist_characters="\r\n\x00", blacklist_categories=["Cs"]), max_size=8),
        st.binary(max_size=4).map(
            lambda some: some.replace(b"\r", b"").replace(b"\n", b"").decode("utf-8", "surrogateescape")
        ),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uri=WORDS, sender=WORDS, call_id=WORDS, header=WORDS)
def test_no_request_line_and_no_header_breaks_the_gate(
    proxy: Kamailio, uri: str, sender: str, call_id: str, header: str
) -> None:
    with proxy.caller() as caller:
        message = (
            f"INVITE {uri or 'sip:a@b'} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
            f"From: {sender};tag=1\r\nTo: <sip:b@acme.example>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n"
            f"X-Ownkey-Tenant: {header}\r\n\r\n"
        )
        caller.send(message.encode("utf-8", "surrogateescape"))
        assert caller.invite("sip:911@acme.example").status == proxy.callee.ANSWER
    assert proxy.running(), proxy.log


NO_UTF8 = "\udcff"


@pytest.mark.parametrize(
    ("uri", "sender", "call_id"),
    [
        (f"sip:+15551234567{NO_UTF8}@nobody.example", "<sip:a@outside.example>", "1"),
        (f"sip:+15551234567;x={NO_UTF8}@nobody.example", "<sip:a@outside.example>", "2"),
        ("sip:+15551234567;x=\u00e9@nobody.example", f"<sip:{NO_UTF8}@outside.example>", "3"),
        ("sip:+15551234567;x=\u00e9@nobody.example", "<sip:a@outside.example>", f"4{NO_UTF8}"),
        ("sip:+15551234567;x=%C3%A9@nobody.example", f"<sip:a@{NO_UTF8}>", "5"),
        (f"tel:+15551234567;x={NO_UTF8}", f"<sip:{NO_UTF8}@outside.example>", "6"),
    ],
)
def test_bytes_that_are_no_text_are_no_way_around_the_gate(
    proxy: Kamailio, uri: str, sender: str, call_id: str
) -> None:
    with proxy.caller() as caller:
        message = (
            f"INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{caller.port};branch=z9hG4bKtext{call_id[0]}\r\n"
            f"Max-Forwards: 70\r\nFrom: {sender};tag=1\r\nTo: <sip:b@nobody.example>\r\nCall-ID: text-{call_id}\r\n"
            "CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        )
        caller.send(message.encode("utf-8", "surrogateescape"))
        assert caller.final(f"text-{call_id}").status == 503
    assert f"text-{call_id}" not in proxy.callee.got
    assert "ownkey: the gate failed" not in proxy.log, proxy.log


@pytest.mark.parametrize("user", [f"9{NO_UTF8}11", f"112;x={NO_UTF8}", f"{NO_UTF8}112", "\u0669\u0661\u0661"])
def test_in_an_emergency_such_bytes_do_no_harm(proxy: Kamailio, user: str) -> None:
    with proxy.caller() as caller:
        assert caller.invite(f"sip:{user}@nobody.example").status == proxy.callee.ANSWER

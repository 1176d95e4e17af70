"""A report as one HTML page that needs no other file: to look at, to print, to keep.

Texts of the token and its module are anybody's: all that is put into the page is escaped, and the page forbids itself
scripts and everything from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

from ownkey.cli.output import moment, printable
from ownkey_server.hsm.check.steps import title_of
from ownkey_server.hsm.check.verdicts import Finding, Report, Verdict

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --faint: #59636e; --line: #d9dee3; --pass: #1a7f37; --warn: #9a6700;
  --fail: #cf222e; --note: #0969da; }
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1.5rem; color: var(--ink); background: #fff;
  font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; break-after: avoid; }
h3 { font-size: .9rem; margin: .9rem 0 .2rem; color: var(--faint); font-weight: 600; break-after: avoid; }
.verdict { border-left: .4rem solid; padding: .6rem 1rem; margin: 1rem 0; background: #f6f8fa; font-size: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
td:first-child { width: 3.6rem; } td:nth-child(2) { width: 38%; }
tr { break-inside: avoid; }
.mark { font-weight: 700; font-size: .8rem; text-transform: uppercase; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail { color: var(--fail); } .note { color: var(--note); }
.more { margin: .25rem 0 0; color: var(--faint); font-size: .88rem; }
.more b { font-weight: 600; color: var(--ink); }
.speeds { font-size: .9em; } .speeds th, .speeds td { text-align: right; white-space: nowrap; }
.speeds td, .speeds td:nth-child(2) { width: auto; }
svg { display: block; width: 100%; height: auto; margin: .6rem 0; }
footer { margin: 2rem 0; color: var(--faint); font-size: .85rem; border-top: 1px solid var(--line);
  padding-top: .6rem; }
@media print { body { margin: 0; max-width: none; font-size: 10.5pt; } @page { margin: 16mm; } }
"""
_SAID = {
    Verdict.PASS: "This token will serve.",
    Verdict.WARN: "This token will serve. There is something to know.",
    Verdict.FAIL: "This token will not serve, or not safely.",
    Verdict.NOTE: "Nothing was looked at.",
}
_FOOTER = (
    "The check wrote nothing to the token: keys that it made were objects of its session. A pass says what was seen at"
    " this time with this library and firmware; check again when either changes. The test of random bytes is one of"
    " sanity, and FIPS hints are hints: what is validated, a certificate says."
)
_WIDTH, _ROW, _LEFT, _RIGHT = 640, 26, 90, 90


def page(report: Report) -> str:
    """The report as a page."""
    return "".join(_parts(report))


def _parts(report: Report) -> Iterator[str]:
    title = f"HSM check: {report.token_label}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
    counts = ", ".join(f"{report.count(one)} {one.value}" for one in (Verdict.PASS, Verdict.WARN, Verdict.FAIL))
    verdict = report.verdict
    yield f'<p class="verdict {verdict.value}"><span class="mark">{verdict.value}</span> '
    yield f"{_SAID[verdict]} {counts}.</p>\n"
    facts = {
        "checked": f"{moment(report.started)}, in {report.seconds:.0f} s, by ownkey {report.version}",
        "module": report.module,
        **report.facts,
    }
    yield "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts.items()) + "</dl>\n"
    to_know = [one for one in report.findings if one.verdict in (Verdict.FAIL, Verdict.WARN)]
    if to_know:
        yield "<h2>What did not pass</h2>\n<table>\n"
        yield from (_row(one, named=True) for one in sorted(to_know, key=lambda one: -one.verdict.rank))
        yield "</table>\n"
    if report.speeds:
        yield "<h2>Throughput</h2>\n"
        yield from _speeds(report)
    for step in dict.fromkeys(one.step for one in report.findings):
        yield f"<h2>{_text(title_of(step))}</h2>\n"
        of_step = [one for one in report.findings if one.step == step]
        for key in dict.fromkeys(one.key for one in of_step):
            if key:
                yield f"<h3>{_text(key)}</h3>\n"
            yield "<table>\n"
            yield from (_row(one) for one in of_step if one.key == key)
            yield "</table>\n"
    yield f"<footer>{_FOOTER}</footer>\n</body>\n</html>\n"


def _row(finding: Finding, *, named: bool = False) -> str:
    verdict = finding.verdict.value
    about = f" ({_text(finding.key)})" if named and finding.key else ""
    more = "".join(
        f'<p class="more"><b>{name}</b> {_text(text)}</p>'
        for name, text in (("Why:", finding.why), ("Do:", finding.to_do))
        if text and finding.verdict is not Verdict.PASS
    )
    return (
        f'<tr><td class="mark {verdict}">{verdict}</td><td>{_text(finding.title)}{about}</td>'
        f"<td>{_text(finding.seen)}{more}</td></tr>\n"
    )


def _speeds(report: Report) -> Iterator[str]:
    most = max(one.pairs_per_second for one in report.speeds)
    height = _ROW * len(report.speeds)
    yield f"<p>{_text(report.mechanism)}: data keys wrapped and unwrapped a second, by sessions, a process each.</p>\n"
    yield f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Pairs a second by number of sessions">\n'
    for number, one in enumerate(report.speeds):
        length = (_WIDTH - _LEFT - _RIGHT) * one.pairs_per_second / most
        top = number * _ROW
        middle = top + _ROW * 0.68
        rate = f"{one.pairs_per_second:,.0f}"
        sessions = f"{one.sessions} session{'s' if one.sessions > 1 else ''}"
        yield f'<text x="{_LEFT - 8}" y="{middle:.1f}" text-anchor="end" font-size="13">{sessions}</text>'
        yield f'<rect x="{_LEFT}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" fill="#0969da"></rect>'
        yield f'<text x="{_LEFT + length + 8:.1f}" y="{middle:.1f}" font-size="13">{rate}/s</text>\n'
    yield "</svg>\n"
    heads = ("sessions", "pairs/s", "wrap, median", "99 %", "longest", "unwrap, median", "99 %", "longest")
    yield '<table class="speeds"><tr>' + "".join(f"<th>{head}</th>" for head in heads) + "</tr>\n"
    for one in report.speeds:
        cells = [f"{one.sessions}", f"{one.pairs_per_second:,.0f}"]
        for each in (one.wrap, one.unwrap):
            cells += [f"{value:.2f} ms" for value in (each.median_ms, each.p99_ms, each.most_ms)]
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    yield "</table>\n"


def _text(text: str) -> str:
    """Escaped, and without what is not seen: no control characters, none that turn the direction of writing."""
    return html.escape(printable(text))

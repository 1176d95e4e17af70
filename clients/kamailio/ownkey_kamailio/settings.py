"""The settings file: gate.toml. Read with the standard library alone, for it says where all else is."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFUSE, ALLOW, ALLOW_NO_RECORDING = "refuse", "allow", "allow_no_recording"
BEHAVIOURS = (REFUSE, ALLOW_NO_RECORDING, ALLOW)
DIRECTIONS = ("inbound", "outbound", "internal")
MAX_BYTES = 16 * 1024 * 1024

_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_COUNTRY = re.compile("[A-Z]{2}")
_ADDRESS = re.compile(r"(dns:(///)?)?([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")
_DIGITS = re.compile("[0-9]{1,15}")


class SettingsError(Exception):
    """The settings cannot be used; says which one, and what it must be."""


@dataclass(frozen=True)
class Service:
    """Where ownkey is, and how Kamailio proves who it is.

    Attributes:
        timeout: Seconds that one call may wait for the answer.
        at_once: How many workers may wait at the same time.
    """

    address: str = "127.0.0.1:7400"
    timeout: float = 0.3
    at_once: int = 6
    ca_file: Path | None = None
    certificate_file: Path | None = None
    private_key_file: Path | None = None
    token_file: Path | None = None

    @property
    def secured(self) -> bool:
        """Whether any credentials are set."""
        return any((self.ca_file, self.certificate_file, self.private_key_file, self.token_file))


@dataclass(frozen=True)
class NoAnswer:
    """What happens to a call while ownkey does not answer.

    Attributes:
        behaviour: One of :data:`BEHAVIOURS`.
        retry_after: Seconds that a refused caller is told to wait.
        last_answer: For how many seconds at most the last answer about the same facts may be used; 0 never does.
        failures: After so many calls without an answer, one after the other ...
        pause: ... ownkey is asked nothing for so many seconds.
    """

    behaviour: str = REFUSE
    retry_after: int = 10
    last_answer: float = 60.0
    failures: int = 3
    pause: float = 1.0


@dataclass(frozen=True)
class Tenants:
    """Whose call it is.

    Attributes:
        domains: The tenant of each SIP domain, in small letters.
        unknown: What happens to a call of no tenant: ``refuse`` or ``allow``.
    """

    domains: Mapping[str, str] = field(default_factory=dict)
    unknown: str = REFUSE


@dataclass(frozen=True)
class Calls:
    """What ownkey is told of each call besides.

    Attributes:
        stores: What is stored of it: names of asset classes.
        tenant_stores: The same for some tenants.
        direction: Which way all calls go; empty finds out by the domains.
        queues: The call queue of each dialled number or name.
        site: Where the calls are: a tenant's call gate may name it.
    """

    stores: tuple[str, ...] = ()
    tenant_stores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    direction: str = ""
    queues: Mapping[str, str] = field(default_factory=dict)
    site: str = ""


@dataclass(frozen=True)
class Emergency:
    """Which numbers are emergency numbers, for the generated emergency.cfg and for the script."""

    countries: tuple[str, ...] = ()
    own_numbers: tuple[str, ...] = ()
    outside_line_prefixes: tuple[str, ...] = ("0", "8", "9")


@dataclass(frozen=True)
class Settings:
    """All of gate.toml.

    Attributes:
        venv: The virtual environment with ownkey's SDK; None when the SDK is installed for the system's Python.
    """

    service: Service
    no_answer: NoAnswer
    tenants: Tenants
    calls: Calls
    emergency: Emergency
    venv: Path | None = None


def load(path: Path) -> Settings:
    """Read the settings. Relative paths start at the file's folder.

    Raises:
        SettingsError: The file cannot be read, or a setting is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SettingsError(f"{path} is longer than {MAX_BYTES} bytes")
        table = _Table(tomllib.loads(content.decode()), "", path.parent)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    settings = Settings(
        venv=table.table("python").path("venv"),
        service=_service(table.table("service")),
        no_answer=_no_answer(table.table("no_answer")),
        tenants=_tenants(table.table("tenants")),
        calls=_calls(table.table("calls")),
        emergency=_emergency(table.table("emergency")),
    )
    table.done()
    return settings


class _Table:
    """One table, of which every setting must be taken."""

    def __init__(self, values: Mapping[str, Any], name: str, folder: Path) -> None:
        self._values = dict(values)
        self.name = name
        self._folder = folder
        self._inner: list[_Table] = []

    def take(self, key: str, default: Any, *kinds: type) -> Any:
        value = self._values.pop(key, default)
        if value is not default and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise self.wrong(key, f"must be a {' or '.join(kind.__name__ for kind in kinds)}, and is {value!r:.60}")
        return value

    def text(self, key: str, default: str = "") -> str:
        return str(self.take(key, default, str))

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self.take(key, default, int, float)
        if not least <= value <= most:
            raise self.wrong(key, f"must be from {least:g} to {most:g}, and is {value!r}")
        return float(value)

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in choices and value != default:
            raise self.wrong(key, f"must be one of {', '.join(choices)}, and is {value!r:.60}")
        return value

    def texts(self, key: str, default: tuple[str, ...], pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
        values = self.take(key, default, list)
        for value in values:
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise self.wrong(key, f"must be a list of {what}, and has {value!r:.60}")
        return tuple(values)

    def path(self, key: str) -> Path | None:
        text = self.text(key)
        return self._folder / text if text else None

    def table(self, key: str) -> _Table:
        name = f"{self.name}.{key}" if self.name else key
        inner = _Table(self.take(key, {}, dict), name, self._folder)
        self._inner.append(inner)
        return inner

    def names(self) -> list[str]:
        """The settings that are left."""
        return list(self._values)

    def rest(self) -> dict[str, Any]:
        """All that was not taken."""
        values, self._values = self._values, {}
        return values

    def wrong(self, key: str, what: str) -> SettingsError:
        return SettingsError(f"{self.name + '.' if self.name else ''}{key} {what}")

    def done(self) -> None:
        for key in self._values:
            raise self.wrong(key, "is no setting; see docs/kamailio.md for those there are")
        for inner in self._inner:
            inner.done()


def _service(table: _Table) -> Service:
    service = Service(
        address=table.text("address", Service.address),
        timeout=table.number("timeout_ms", 300, 10, 5000) / 1000,
        at_once=int(table.number("at_once", Service.at_once, 1, 1000)),
        ca_file=table.path("ca_file"),
        certificate_file=table.path("certificate_file"),
        private_key_file=table.path("private_key_file"),
        token_file=table.path("token_file"),
    )
    if not service.address.startswith("unix:") and not _ADDRESS.fullmatch(service.address):
        raise table.wrong("address", f"must be HOST:PORT or unix:PATH, and is {service.address!r:.80}")
    host = service.address.removeprefix("dns:").removeprefix("///").rpartition(":")[0].strip("[]")
    if not service.secured and not service.address.startswith("unix:") and not _local(host):
        raise table.wrong("address", "is on another machine: give service.ca_file, and a certificate or a token")
    return service


def _local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_answer(table: _Table) -> NoAnswer:
    return NoAnswer(
        behaviour=table.choice("behaviour", REFUSE, BEHAVIOURS),
        retry_after=int(table.number("retry_after_seconds", NoAnswer.retry_after, 1, 3600)),
        last_answer=table.number("last_answer_seconds", NoAnswer.last_answer, 0, 3600),
        failures=int(table.number("failures", NoAnswer.failures, 1, 1000)),
        pause=table.number("pause_seconds", NoAnswer.pause, 0, 60),
    )


def _tenants(table: _Table) -> Tenants:
    domains: dict[str, str] = {}
    file = table.path("domains_file")
    if file is not None:
        domains |= _domains_file(table, file)
    given = table.table("domains")
    for domain, tenant in given.rest().items():
        domains[domain.lower()] = _tenant(given, domain, tenant)
    return Tenants(domains, table.choice("unknown", REFUSE, (REFUSE, ALLOW)))


def _domains_file(table: _Table, path: Path) -> dict[str, str]:
    """Lines of a domain and its tenant; # begins a comment."""
    domains = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise table.wrong("domains_file", f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _TENANT.fullmatch(words[1]):
            raise table.wrong("domains_file", f"{path}, line {number}: must be a domain and a tenant's id")
        domains[words[0].lower()] = words[1]
    return domains


def _tenant(table: _Table, domain: str, tenant: Any) -> str:
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise table.wrong(domain, f"must be a tenant's id, and is {tenant!r:.60}")
    return tenant


def _calls(table: _Table) -> Calls:
    word, what = re.compile("[a-z_]+"), "asset classes, such as phone_recording"
    by_tenant = table.table("tenant_stores")
    queues = table.table("queues")
    return Calls(
        stores=table.texts("stores", (), word, what),
        tenant_stores={name: by_tenant.texts(name, (), word, what) for name in by_tenant.names()},
        direction=table.choice("direction", "", DIRECTIONS),
        queues={name: queues.text(name) for name in queues.names()},
        site=table.text("site"),
    )


def _emergency(table: _Table) -> Emergency:
    default = Emergency()
    return Emergency(
        countries=table.texts("countries", (), _COUNTRY, "ISO 3166 codes, such as DE"),
        own_numbers=table.texts("own_numbers", (), _DIGITS, "numbers, digits alone"),
        outside_line_prefixes=table.texts(
            "outside_line_prefixes", default.outside_line_prefixes, re.compile("[0-9]{1,4}"), "one to four digits"
        ),
    )

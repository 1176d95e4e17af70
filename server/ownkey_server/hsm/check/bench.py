"""A token on the bench: the module, its one session that is logged in, and keys that end with it.

In the child process alone. Wrapping and unwrapping go through the key store's own ``Pkcs11Token``, so that what is
tried here is what will serve.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11

from ownkey.container import EncryptedDataKey, serialize_context
from ownkey_server.hsm.check.cryptoki import Cryptoki
from ownkey_server.hsm.check.plan import Plan
from ownkey_server.hsm.templates import KEY_BITS, kek_template
from ownkey_server.keystores.pkcs11 import profiles
from ownkey_server.keystores.pkcs11.messages import Login
from ownkey_server.keystores.pkcs11.module import LoadedModule
from ownkey_server.keystores.pkcs11.profiles import AUTO, Identity, Profile
from ownkey_server.keystores.pkcs11.tokens import Pkcs11Token
from ownkey_server.keystores.pkcs11.ways import Way
from ownkey_server.keystores.pkcs11.wrapping import Wrapping, rights

WAY_NAMES: Mapping[Way, str] = {
    Way.GCM: "AES-GCM",
    Way.KEY_WRAP: "AES key wrap",
    Way.KEY_WRAP_PAD: "AES key wrap with padding",
}
CONTEXT = serialize_context({"ownkey:tenant": "check", "ownkey:asset-id": "right"})
OTHER_CONTEXT = serialize_context({"ownkey:tenant": "check", "ownkey:asset-id": "wrong"})
MOST_OBJECTS = 1000
_BETWEEN_SIGNS = 100


class NoToken(Exception):
    """The token is not there, or there are several of its label. The message says which labels there are."""


class Bench:
    """The module, loaded and initialized.

    Args:
        plan: Which, and which token.
        pin: Gives the PIN. It is read at a login alone.
    """

    def __init__(self, plan: Plan, pin: Callable[[], str]) -> None:
        self.plan = plan
        self._pin = pin
        self.module = LoadedModule(plan.module, plan.arguments, pause=0.0)
        self.library = self.module.library()
        self._session: Any = None
        self._own: int | None = None
        self._made = 0
        self.began_with = plan.inventory

    @cached_property
    def cryptoki(self) -> Cryptoki:
        """The calls that the binding has not."""
        return Cryptoki(str(self.plan.module))

    def find_token(self) -> Any:
        """The token.

        Raises:
            NoToken: There is none, or several.
        """
        found, labels = [], []
        for slot in self.library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except (p11.PKCS11Error, UnicodeDecodeError):
                continue
            serial = token.serial.decode(errors="replace")
            labels.append(f"{token.label!r} (serial {serial})")
            if token.label == self.plan.token_label:
                found.append((token, serial))
        if len(found) == 1 and self.plan.serial in ("", found[0][1]):
            return found[0][0]
        if len(found) == 1:
            raise NoToken(f"the token {self.plan.token_label!r} has the serial number {found[0][1]}")
        if found:
            serials = ", ".join(f"(serial {serial})" for _, serial in found)
            raise NoToken(f"{len(found)} tokens have the label {self.plan.token_label!r}: {serials}")
        there = ", ".join(labels) or "none"
        raise NoToken(f"no token has the label {self.plan.token_label!r}; there are: {there}")

    @cached_property
    def token(self) -> Any:
        """The token, as it was when it was first asked for."""
        return self.find_token()

    @cached_property
    def profile(self) -> Profile:
        """The token's family."""
        library, token = self.library, self.token
        said = Identity(library.manufacturer_id, library.library_description, token.manufacturer_id, token.model)
        return profiles.load(self.plan.profile) or profiles.recognize(said)

    @cached_property
    def offered(self) -> frozenset[int]:
        """The mechanisms that the token lists."""
        return frozenset(int(one) for one in self.token.slot.get_mechanisms())

    @property
    def session(self) -> Any:
        """The session that is logged in; it only reads where the token allows that. Opened at the first use."""
        if self._session is None:
            self._session = self.token.open(rw=self.profile.read_write_sessions, user_pin=self._pin())
        return self._session

    @property
    def own_session(self) -> int:
        """A session for ``cryptoki``, of the same login."""
        if self._own is None:
            assert self.session is not None  # noqa: S101 - logged in first
            self._own = self.open_own()
        return self._own

    def open_own(self) -> int:
        """A session for ``cryptoki``: one that only reads, where the token allows that."""
        return self.cryptoki.open(self.token.slot.slot_id, writing=self.profile.read_write_sessions)

    def open_another(self) -> Any:
        """Another session of the same login."""
        return self.token.open(rw=self.profile.read_write_sessions)

    @cached_property
    def store_token(self) -> Pkcs11Token:
        """The token as the key store uses it."""
        assert self.session is not None  # noqa: S101 - logged in first: its login is the other's
        label, exportable = self.plan.token_label, self.plan.exportable_keys
        token = Pkcs11Token(self.module, label, self.wanted, lambda _: (), self.profile, exportable_keys=exportable)
        token.allow_login(Login(self._pin().encode()))
        return token

    @property
    def wanted(self) -> Way | None:
        """How the key store is to wrap; None lets the profile choose."""
        return None if self.plan.mechanism == AUTO else Way(self.plan.mechanism)

    def ways(self) -> list[Way]:
        """How the key store could wrap here, what it would choose first."""
        order = self.profile.order if self.wanted is None else (self.wanted,)
        return [way for way in order if self.mechanism_of(way) is not None]

    def mechanism_of(self, way: Way) -> Mechanism | None:
        """What the token calls a way; None where it has it not, or not so that it would do."""
        return self.profile.mechanism(way, self.offered)

    def rights_of(self, way: Way) -> tuple[Attribute, Attribute]:
        """Which rights of a key a way takes."""
        return rights(way, self.profile)

    def wrapping(self, way: Way) -> Wrapping:
        """A way for keys whose handles are at hand."""
        mechanism = self.mechanism_of(way)
        assert mechanism is not None  # noqa: S101 - of a way that is here
        return Wrapping(way, mechanism, self.profile, self.session, self.store_token.random)

    def new_label(self) -> str:
        """A label for a key of this check."""
        self._made += 1
        return f"{self.plan.throw_away}{self._made}"

    def make_kek(self, way: Way, session: Any = None) -> tuple[str, Any]:
        """A key of the session, or of another, that is as `ownkey hsm keygen` makes one; its label and its handle."""
        label = self.new_label()
        template = kek_template(way, self.profile)
        maker = self.session if session is None else session
        return label, maker.generate_key(KeyType.AES, KEY_BITS, label=label, store=False, template=template)

    def wrap(self, label: str, data_key: bytes, context: bytes, way: Way) -> EncryptedDataKey:
        """Wrap a data key as the key store does."""
        return self.store_token.wrap(label, data_key, context, way)

    def unwrap(self, label: str, wrapped: EncryptedDataKey, context: bytes) -> bytes:
        """Unwrap one as the key store does."""
        return bytes(self.store_token.unwrap(label, wrapped, context))

    def keys_of(self, label: str) -> list[Any]:
        """The secret keys of a label."""
        return list(self.session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}))

    def is_seen(self, session: Any, label: str) -> bool:
        """Whether a session sees a key of that label."""
        return bool(list(session.get_objects({Attribute.LABEL: label})))

    def inventory(self, alive: Callable[[str], None]) -> str:
        """A digest of what the token holds: how many objects, and of the first thousand class, label and id."""
        found = []
        count = 0
        for one in self.session.get_objects({Attribute.TOKEN: True}):
            count += 1
            _say_so(count, alive)
            if count <= MOST_OBJECTS:
                kinds = (Attribute.CLASS, Attribute.LABEL, Attribute.ID)
                parts = [self.cryptoki.attribute(self.own_session, one.handle, int(kind)) for kind in kinds]
                found.append(hashlib.sha256(repr(parts).encode()).digest())
        return f"{count} objects, {hashlib.sha256(b''.join(sorted(found))).hexdigest()[:16]}"

    def left_behind(self, alive: Callable[[str], None]) -> int:
        """How many objects of this check are in the token itself."""
        return sum(1 for _ in self._left(self.session, alive))

    def remove_left(self, alive: Callable[[str], None]) -> None:
        """Delete them: nothing else has labels that begin so.

        Raises:
            PKCS11Error: One could not be.
        """
        with self.token.open(rw=True) as session:
            for one in list(self._left(session, alive)):
                one.destroy()

    def _left(self, session: Any, alive: Callable[[str], None]) -> Iterator[Any]:
        prefix = self.plan.throw_away.encode()
        wanted = {Attribute.TOKEN: True, Attribute.CLASS: ObjectClass.SECRET_KEY}
        for count, one in enumerate(session.get_objects(wanted)):
            _say_so(count, alive)
            label = self.cryptoki.attribute(self.own_session, one.handle, int(Attribute.LABEL)) or b""
            if label.startswith(prefix):
                yield one

    def start_anew(self) -> None:
        """End the module with all its sessions, and start it again; the next use logs in."""
        self.forget()
        self.cryptoki.end()
        self.module.reinitialize()
        self.cryptoki.resume()

    def forget(self) -> None:
        """End all sessions, and let go of what has ended: the next use opens others, and logs in."""
        session, self._session, self._own = self._session, None, None
        with contextlib.suppress(Exception):
            if session is not None:
                session.close()
        with contextlib.suppress(Exception):
            # The binding forgets sessions whose login failed, or that were to be closed after a logout.
            if "token" in self.__dict__:
                self.cryptoki.close_all(self.token.slot.slot_id)
        for name in ("token", "offered", "store_token"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """End every session, and with them the keys that were made. Idempotent; says nothing of errors."""
        self.forget()
        with contextlib.suppress(Exception):
            if "cryptoki" in self.__dict__:
                self.cryptoki.end()
        with contextlib.suppress(Exception):
            self.library.finalize()


def _say_so(count: int, alive: Callable[[str], None]) -> None:
    """Some tokens hold many thousands of objects: that takes its time, and is no hang."""
    if count % _BETWEEN_SIGNS == 0:
        alive(f"{count} objects")


@contextlib.contextmanager
def opened(plan: Plan, pin: Callable[[], str]) -> Iterator[Bench]:
    """A bench that is cleared whatever happens."""
    bench = Bench(plan, pin)
    try:
        yield bench
    finally:
        bench.close()

"""Keys in tokens of SoftHSM: every act of a holder is another process's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from e2e.matrix.holders import Block, Holder
from support.key_stores import KEY, Pkcs11Subject
from support.softhsm import SoftHsm


class TokenHolder(Holder):
    """A token of this cell's own."""

    def __init__(self, cell: str, softhsm: SoftHsm, mechanism: str, act: str) -> None:
        super().__init__(cell)
        self._softhsm = softhsm
        self._subject = Pkcs11Subject(softhsm, mechanism)
        self._token = self._subject.label
        self.store, self.places = cell, [KEY]
        self.section = (
            f'[key_stores.{cell}]\nkind = "pkcs11"\nmodule = "{softhsm.module}"\ntoken_label = "{self._token}"\n'
            f'pin_file = "{softhsm.folder / f"{self._token}.pin"}"\nmechanism = "{mechanism}"\n'
        )
        self._rights = ("ENCRYPT", "DECRYPT") if mechanism == "aes-gcm" else ("WRAP", "UNWRAP")
        softhsm.make_key(self._token, KEY, "SENSITIVE", *self._rights)
        if act == "initialized_anew":  # made now, for who makes a token must find no other pulled at that moment
            kept = softhsm.take_out(self._token)
            softhsm.make_token(self._token)
            self._other = softhsm.take_out(self._token)
            softhsm.put_in(self._token, kept)

    @contextlib.contextmanager
    def rights_withdrawn(self) -> Iterator[None]:
        _until_done(self._subject.revoke)
        yield
        _until_done(self._subject.restore)

    @contextlib.contextmanager
    def opening_forbidden(self) -> Iterator[None]:
        _until_done(self._subject.forbid_opening)
        yield
        _until_done(self._subject.restore)

    @contextlib.contextmanager
    def destroyed(self) -> Iterator[None]:
        """It comes back from a backup of the token's files, as an HSM's key would from the HSM's backup."""
        kept = self._softhsm.keep_files(self._token)
        _until_done(lambda: self._softhsm.destroy_key(self._token, KEY))
        yield
        self._softhsm.restore_files(self._token, kept)

    @contextlib.contextmanager
    def exchanged_while_down(self) -> Iterator[None]:
        with self.destroyed():
            self._softhsm.make_key(self._token, KEY, "SENSITIVE", *self._rights)
            yield
            _until_done(lambda: self._softhsm.destroy_key(self._token, KEY))

    def destroyed_while_down(self) -> Block:
        return self.destroyed()

    @contextlib.contextmanager
    def pulled(self) -> Iterator[None]:
        self._subject.break_off()
        yield
        self._subject.mend()

    @contextlib.contextmanager
    def wrong_pin_while_down(self) -> Iterator[None]:
        self._softhsm.write_pin(self._token, "000000")
        yield
        self._softhsm.write_pin(self._token)

    @contextlib.contextmanager
    def open_pin_while_down(self) -> Iterator[None]:
        file = self._softhsm.folder / f"{self._token}.pin"
        file.chmod(0o644)
        yield
        file.chmod(0o600)

    @contextlib.contextmanager
    def initialized_anew(self) -> Iterator[None]:
        kept = self._softhsm.take_out(self._token)
        self._softhsm.put_in(self._token, self._other)
        yield
        self._softhsm.take_out(self._token)
        self._softhsm.put_in(self._token, kept)

    def pulled_while_down(self) -> Block:
        return self.pulled()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Another process holds a lock of the token, and every call waits for it."""
        with self._softhsm.holding(self._token):
            yield

    def clean_up(self) -> None:
        self._subject.clean_up()


def _until_done(act: Callable[[], None]) -> None:
    """Do it, again where the holder's tool gave up since another cell's token was pulled at that moment."""
    for _ in range(4):
        with contextlib.suppress(AssertionError):
            return act()
    return act()

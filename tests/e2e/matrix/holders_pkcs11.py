"""Keys in tokens of SoftHSM: every act of a holder is another process's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from e2e.matrix.holders import Holder
from support.key_stores import KEY, Pkcs11Subject
from support.softhsm import SoftHsm


class TokenHolder(Holder):
    """A token of this cell's own."""

    def __init__(self, cell: str, softhsm: SoftHsm, mechanism: str) -> None:
        super().__init__()
        self._softhsm = softhsm
        self._subject = Pkcs11Subject(softhsm, mechanism)
        self._token = self._subject.label
        self.store, self.places = cell, [KEY]
        self.section = (
            f'[key_stores.{cell}]\nkind = "pkcs11"\nmodule = "{softhsm.module}"\ntoken_label = "{self._token}"\n'
            f'pin_file = "{softhsm.folder / f"{self._token}.pin"}"\nmechanism = "{mechanism}"\n'
        )
        rights = ("ENCRYPT", "DECRYPT") if mechanism == "aes-gcm" else ("WRAP", "UNWRAP")
        softhsm.make_key(self._token, KEY, "SENSITIVE", *rights)

    @contextlib.contextmanager
    def rights_withdrawn(self) -> Iterator[None]:
        self._subject.revoke()
        yield
        self._subject.restore()

    @contextlib.contextmanager
    def opening_forbidden(self) -> Iterator[None]:
        self._subject.forbid_opening()
        yield
        self._subject.restore()

    @contextlib.contextmanager
    def destroyed(self) -> Iterator[None]:
        """It comes back from a backup of the token's files, as an HSM's key would from the HSM's backup."""
        kept = self._softhsm.keep_files(self._token)
        self._softhsm.destroy_key(self._token, KEY)
        yield
        self._softhsm.restore_files(self._token, kept)

    @contextlib.contextmanager
    def pulled(self) -> Iterator[None]:
        self._subject.break_off()
        yield
        self._subject.mend()

    def clean_up(self) -> None:
        self._subject.clean_up()

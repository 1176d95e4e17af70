"""The holder of keys in a PKCS#11 token, in a process of its own: answers a line of JSON to each line of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType

RIGHTS = ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP")
# What a key for AES-GCM may do.
GIVEN = ("ENCRYPT", "DECRYPT")


class Holder:
    """Works on the keys of one token."""

    def __init__(self, module: str, token: str, pin: str) -> None:
        self._session = pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin)

    def make(self, label: str) -> None:
        names = ("SENSITIVE", "EXTRACTABLE", *RIGHTS)
        template = {Attribute[name]: name == "SENSITIVE" or name in GIVEN for name in names}
        self._session.generate_key(KeyType.AES, 256, label=label, store=True, template=template)

    def withdraw(self, label: str) -> None:
        self._set(label, ())

    def give_back(self, label: str) -> None:
        self._set(label, GIVEN)

    def destroy(self, label: str) -> None:
        self._key(label).destroy()

    def _set(self, label: str, given: tuple[str, ...]) -> None:
        key = self._key(label)
        for right in RIGHTS:
            key[Attribute[right]] = right in given

    def _key(self, label: str) -> Any:
        (key,) = list(self._session.get_objects({Attribute.LABEL: label}))
        return key


def main() -> None:
    holder: Holder | None = None
    for line in sys.stdin:
        job = json.loads(line)
        what = job.pop("do")
        if holder is None:
            holder = Holder(**job)
        else:
            getattr(holder, what)(**job)
        print("null", flush=True)


if __name__ == "__main__":
    main()

"""The name of a key in AWS KMS: its ARN, and nothing shorter, so that account and region are never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_PARTITION = "aws[a-z-]{0,16}"
_REGION = "[a-z]{2}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2}"
_ARN = re.compile(
    rf"arn:(?P<partition>{_PARTITION}):kms:(?P<region>{_REGION})"
    r":(?P<account>[0-9]{12}):key/(?P<key_id>mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
MULTI_REGION = "mrk-"


class ArnInvalid(ValueError):
    """It is no ARN of a key. The message says what one looks like."""


@dataclass(frozen=True, slots=True)
class KeyArn:
    """The parts of a key's ARN (AWS KMS Developer Guide, "Key ARN")."""

    partition: str
    region: str
    account: str
    key_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The ARN that a text is.

        Raises:
            ArnInvalid: It is none; an alias, for one, may come to mean another key.
        """
        parts = _ARN.fullmatch(text)
        if parts is None:
            raise ArnInvalid(
                f"{_fault(text)}a key is named by its ARN, such as"
                " arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab; no id and no alias"
            )
        return cls(parts["partition"], parts["region"], parts["account"], parts["key_id"])

    @property
    def is_multi_region(self) -> bool:
        """Whether the key has, or may have, related keys in other regions."""
        return self.key_id.startswith(MULTI_REGION)

    @property
    def family(self) -> str:
        """What the key and all related keys have in common, and no other key."""
        region = "" if self.is_multi_region else self.region
        return f"arn:{self.partition}:kms:{region}:{self.account}:key/{self.key_id}"

    def is_same_key(self, other: KeyArn) -> bool:
        """Whether one opens what the other wrapped: it is the same, or both are of one multi-Region key."""
        return self.family == other.family

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key_id}"


def _fault(text: str) -> str:
    """What keeps a text from being a key's ARN, where that can be told; says none of the text again."""
    parts = text.split(":")
    if len(parts) != 6 or parts[0] != "arn":
        return ""
    _, partition, service, region, account, resource = parts
    if not account.isdecimal() or len(account) != 12:
        digits = f"of {len(account)} digits" if account.isdecimal() else "that is no number"
        return f"this ARN has an account {digits}, and an account has 12: "
    if resource.startswith("alias/"):
        return "this is the ARN of an alias, which may come to mean another key: "
    for what, value, form in (
        ("partition, such as aws", partition, _PARTITION),
        ("service of keys, which is kms", service, "kms"),
        ("region, such as eu-west-1", region, _REGION),
    ):
        if not re.fullmatch(form, value):
            return f"this ARN has no {what}: "
    return "what follows key/ in this ARN is no key's id, in lower case and whole: "

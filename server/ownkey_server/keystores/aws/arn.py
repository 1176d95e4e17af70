"""The name of a key in AWS KMS: its ARN, and nothing shorter, so that account and region are never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,16}):kms:(?P<region>[a-z]{2}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2})"
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
                "a key is named by its ARN, such as"
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

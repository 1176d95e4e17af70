"""By which kind of policy AWS says that it denies a call, and whose that is.

The words are those of the IAM User Guide, "Troubleshoot access denied error messages": ``because no KIND allows the
ACTION action`` and ``with an explicit deny in a KIND``. AWS may leave them out, above all between accounts; of several
policies that deny, it names one. So words that speak of our own side are believed, for they accuse nobody else, and all
others prove nothing by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from botocore.exceptions import ClientError

from ownkey_server.domain.errors import KeyStoreError
from ownkey_server.keystores.aws.errors import KEY_DENIED, When

_OURS: Mapping[str, When] = {
    "identity-based policy": When.OUR_POLICY,
    "service control policy": When.OUR_CONTROL_POLICY,
    "permissions boundary": When.OUR_BOUNDARY,
    "session policy": When.OUR_SESSION_POLICY,
    "vpc endpoint policy": When.ENDPOINT_POLICY,
}
_USES = frozenset({"GenerateDataKey", "Encrypt", "Decrypt", "ReEncrypt"})
# What a role in a customer's account cannot have of the customer: the way to AWS is ours, and so is who hands a policy
# to AssumeRole (nobody here does).
_ALWAYS_OURS = frozenset({When.ENDPOINT_POLICY, When.OUR_SESSION_POLICY})
# Names in a message hold no spaces, so that none can be taken for these words.
_WORDS = re.compile(
    rf" (?:because no|with an explicit deny in (?:a|an|the)) ({'|'.join(_OURS).replace('policy', 'polic(?:y|ies)')})\b"
)


def by_ours(message: str, *, by_role: bool) -> When | None:
    """The policy of our own side by which a call was denied; None when the message names none.

    Args:
        message: What AWS says.
        by_role: Whether the call was made as a role of the customer's: what binds that role is the customer's too.
    """
    said = _WORDS.search(message.lower())
    if said is None:
        return None
    found = _OURS[said[1].replace("policies", "policy")]
    return found if found in _ALWAYS_OURS or not by_role else None


def by_key(error: KeyStoreError) -> bool:
    """Whether AWS KMS denied a use of the key, and named no policy of our own side; no role of the customer's in it.

    STS denies too, under a like name: what it says is about our identity, and nothing of the key.
    """
    cause = error.__cause__
    if not isinstance(cause, ClientError) or cause.operation_name not in _USES:
        return False
    said = cause.response["Error"]
    return said["Code"] == KEY_DENIED and by_ours(str(said.get("Message", "")), by_role=False) is None

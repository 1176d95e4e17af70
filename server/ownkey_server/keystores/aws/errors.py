"""What each error of AWS means, as one table (docs/aws.md shows it).

Two rules stand behind it: only what the key's holder did is a revocation, and doubt is an outage, never a revocation.
What an error alone does not tell, ``judge.py`` finds out; such rows are told apart by ``when``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ownkey_server.domain.errors import (
    CiphertextInvalid,
    KeyMisconfigured,
    KeyRevoked,
    KeyStoreError,
    KeyStoreThrottled,
    KeyUnreachable,
    OperationUnsupported,
    StoreMisconfigured,
)


class When(StrEnum):
    """What was found out about an error that has several meanings."""

    ALWAYS = ""
    WORKED = "the key has worked here"
    NEVER_WORKED = "the key has not worked here"
    CANARY_WORKS = "it has worked here, and our canary works"
    CANARY_DENIED = "our canary fails too"
    CANARY_SILENT = "our canary does not answer"
    NO_CANARY = "there is no canary for its region"
    OUR_POLICY = "AWS names an identity-based policy of ours"
    OUR_CONTROL_POLICY = "AWS names a service control policy of ours"
    OUR_BOUNDARY = "AWS names a permissions boundary of ours"
    OUR_SESSION_POLICY = "AWS names a session policy"
    ENDPOINT_POLICY = "AWS names a VPC endpoint policy"
    ASKING = "our own credentials were being fetched"
    EXPIRED = "its material had a date, which has passed"
    DELETED = "its material had no date, or one to come"
    UNKNOWN = "nothing is known of its material"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        sign: A code, a key state, words of a message, or the name of a botocore exception.
        kind: What it is in our own words.
        cause: What the reader is told: never a text of AWS's.
        when: What else must be so.
        again: Whether the same call may well be served a moment later.
    """

    sign: str
    kind: type[KeyStoreError]
    cause: str
    when: When = When.ALWAYS
    again: bool = False


# What KMS says of a key, and STS of a role.
KEY_DENIED = "AccessDeniedException"
ROLE_DENIED = "AccessDenied"

_OUR_CREDENTIALS = "AWS refuses our own credentials: renew them"
_NO_CREDENTIALS = "we have no AWS credentials: set profile, or the environment's"
_SIGNATURE = "AWS refuses our signature: check our credentials, and this machine's clock"
_BUSY = "AWS takes no more calls of ours at the moment"
_TROUBLE = "AWS KMS has trouble of its own"
_ENDPOINT = "there is no such endpoint: check regions, endpoint_url and use_fips"
_CONFIGURATION = "the AWS configuration of this server cannot be used: mend it"
_NOT_OURS = "wrong key, wrong encryption context, or changed bytes"
_DELETION = "the key is scheduled for deletion"
_KEY_NEVER_WORKED = "AWS denies us the key, which has not worked here yet: see its key policy, and our permissions"
_ROLE_NEVER_WORKED = "AWS denies us the role, and its key has not worked here yet: see its trust, and our permissions"
_KEY_DENIED_TOO = "AWS denies us the key, and our canary key does not work either: mend our own credentials"
_ROLE_DENIED_TOO = "AWS denies us the role, and our canary role too: mend our own right to assume roles"
_KEY_SILENT = "AWS denies us the key, and our canary key does not answer: it may be our own fault"
_ROLE_SILENT = "AWS denies us the role, and our canary role does not answer: it may be our own fault"
_NO_CANARY_KEY = "AWS denies us the key; a canary key in its region (canary_keys) tells whether it is our own fault"
_NO_CANARY_ROLE = "AWS denies us the role; set canary_role to tell a withdrawn trust from a fault of our own"
_OUR_POLICIES = (
    (When.OUR_POLICY, "an identity-based policy of our own: allow it there"),
    (When.OUR_CONTROL_POLICY, "a service control policy of our own organization: allow it there"),
    (When.OUR_BOUNDARY, "a permissions boundary of our own: allow it there"),
    (When.OUR_SESSION_POLICY, "the policy of a session of our own: allow it there"),
    (When.ENDPOINT_POLICY, "the policy of our VPC endpoint: allow it there"),
)
_PROXY_SILENT = "the proxy of its external key store does not answer"

CODES: tuple[Row, ...] = (
    # The key, by its holder
    Row("DisabledException", KeyRevoked, "the key is disabled"),
    Row("NotFoundException", KeyRevoked, "the key was deleted", When.WORKED),
    Row("NotFoundException", KeyMisconfigured, "AWS KMS has no such key: check the ARN", When.NEVER_WORKED),
    Row(KEY_DENIED, KeyRevoked, "its holder denies us the key: see key policy", When.CANARY_WORKS),
    Row(KEY_DENIED, KeyMisconfigured, _KEY_NEVER_WORKED, When.NEVER_WORKED),
    Row(KEY_DENIED, KeyMisconfigured, _KEY_DENIED_TOO, When.CANARY_DENIED),
    Row(KEY_DENIED, KeyMisconfigured, _KEY_SILENT, When.CANARY_SILENT),
    Row(KEY_DENIED, KeyMisconfigured, _NO_CANARY_KEY, When.NO_CANARY),
    *(Row(KEY_DENIED, KeyMisconfigured, f"AWS denies us the key by {policy}", when) for when, policy in _OUR_POLICIES),
    Row(ROLE_DENIED, KeyRevoked, "its holder denies us the role: see its trust policy", When.CANARY_WORKS),
    Row(ROLE_DENIED, KeyMisconfigured, _ROLE_NEVER_WORKED, When.NEVER_WORKED),
    Row(ROLE_DENIED, KeyMisconfigured, _ROLE_DENIED_TOO, When.CANARY_DENIED),
    Row(ROLE_DENIED, KeyMisconfigured, _ROLE_SILENT, When.CANARY_SILENT),
    Row(ROLE_DENIED, KeyMisconfigured, _NO_CANARY_ROLE, When.NO_CANARY),
    *(
        Row(ROLE_DENIED, KeyMisconfigured, f"AWS denies us the role by {policy}", when)
        for when, policy in _OUR_POLICIES
    ),
    Row("AccessDenied", StoreMisconfigured, _OUR_CREDENTIALS, When.ASKING),
    Row("AccessDeniedException", StoreMisconfigured, _OUR_CREDENTIALS, When.ASKING),
    # The key, as it is
    Row("InvalidKeyUsageException", KeyMisconfigured, "the key is not one of spec SYMMETRIC_DEFAULT: enrol another"),
    Row("InvalidArnException", KeyMisconfigured, "AWS KMS does not take the ARN: check it"),
    Row("InvalidGrantTokenException", KeyMisconfigured, "AWS KMS refuses a grant token"),
    # What was handed in
    Row("InvalidCiphertextException", CiphertextInvalid, _NOT_OURS),
    Row("IncorrectKeyException", CiphertextInvalid, _NOT_OURS),
    # What AWS KMS does not do
    Row(
        "UnsupportedOperationException",
        OperationUnsupported,
        "AWS KMS does not do that with this key: is it SYMMETRIC_DEFAULT?",
    ),
    Row("DryRunOperationException", OperationUnsupported, "AWS KMS only rehearsed the call"),
    Row("ValidationException", OperationUnsupported, "AWS KMS does not take the request: its context may be too long"),
    Row("ValidationError", OperationUnsupported, "AWS does not take the request"),
    Row("UnknownOperationException", OperationUnsupported, "what answers at the endpoint is not AWS KMS"),
    Row("InvalidAction", OperationUnsupported, "what answers at the endpoint is not AWS KMS"),
    Row("MalformedHttpRequestException", OperationUnsupported, "AWS does not take the request"),
    Row("RequestEntityTooLargeException", OperationUnsupported, "AWS does not take so large a request"),
    # Too often
    *(
        Row(code, KeyStoreThrottled, _BUSY, again=True)
        for code in (
            "ThrottlingException",
            "Throttling",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "RequestLimitExceeded",
            "TooManyRequestsException",
            "LimitExceededException",
            "SlowDown",
        )
    ),
    # Outages
    *(
        Row(code, KeyUnreachable, _TROUBLE, again=True)
        for code in (
            "KMSInternalException",
            "KeyUnavailableException",
            "DependencyTimeoutException",
            "InternalFailure",
            "InternalServerError",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "RequestTimeout",
            "RequestTimeoutException",
            "RequestAbortedException",
        )
    ),
    # Ourselves
    Row("ExpiredTokenException", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("ExpiredToken", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("UnrecognizedClientException", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("InvalidClientTokenId", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("MissingAuthenticationToken", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("MissingAuthenticationTokenException", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("NotAuthorized", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("InvalidIdentityToken", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("IDPRejectedClaim", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("IDPCommunicationError", StoreMisconfigured, _OUR_CREDENTIALS),
    Row("InvalidSignatureException", StoreMisconfigured, _SIGNATURE),
    Row("SignatureDoesNotMatch", StoreMisconfigured, _SIGNATURE),
    Row("IncompleteSignature", StoreMisconfigured, _SIGNATURE),
    Row("IncompleteSignatureException", StoreMisconfigured, _SIGNATURE),
    Row("RequestExpired", StoreMisconfigured, _SIGNATURE),
    Row("OptInRequired", StoreMisconfigured, "our AWS account is not signed up for AWS KMS in this region"),
    Row("SubscriptionRequiredException", StoreMisconfigured, "our AWS account is not signed up for AWS KMS"),
    Row("RegionDisabledException", KeyMisconfigured, "the account has not enabled this region"),
    Row("MalformedPolicyDocument", KeyMisconfigured, "AWS refuses the session of the role"),
    Row("PackedPolicyTooLarge", KeyMisconfigured, "the tags of the role's session are too long"),
)
OTHER_CODE = Row("any other code", KeyUnreachable, "AWS answers an error that is not known here")
DENIALS = frozenset({KEY_DENIED, ROLE_DENIED})
INVALID_STATE = "KMSInvalidStateException"
# Credentials of a role's session that AWS no longer takes: fresh ones may do.
STALE = frozenset({"ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId"})

# KMSInvalidStateException, by what DescribeKey says; without the right to ask it, by the message.
STATES: tuple[Row, ...] = (
    Row("PendingDeletion", KeyRevoked, _DELETION),
    Row("PendingReplicaDeletion", KeyRevoked, _DELETION),
    Row("PendingImport", KeyRevoked, "its imported key material has expired", When.EXPIRED),
    Row("PendingImport", KeyRevoked, "its imported key material was deleted", When.DELETED),
    Row("PendingImport", KeyRevoked, "its imported key material was deleted or has expired", When.UNKNOWN),
    Row("Disabled", KeyRevoked, "the key is disabled"),
    Row("Creating", KeyUnreachable, "the key is still being made", again=True),
    Row("Updating", KeyUnreachable, "the key is being changed", again=True),
    Row("Unavailable", KeyUnreachable, "its custom key store is not connected"),
)
STATE_WORDS: Mapping[str, str] = {
    "is pending deletion": "PendingDeletion",
    "is pending replica deletion": "PendingReplicaDeletion",
    "is pending import": "PendingImport",
    "is creating": "Creating",
    "is updating": "Updating",
    "is unavailable": "Unavailable",
}

# KMSInvalidStateException of keys in external key stores: every error of the proxy is one, and only the words differ.
MESSAGES: tuple[Row, ...] = (
    Row("denied access to the operation", KeyRevoked, "the proxy of its external key store denies us the key"),
    Row("external key is not enabled", KeyRevoked, "the key is disabled in its external key manager"),
    Row("could not find the external key", KeyMisconfigured, "its external key manager has no such key"),
    Row("external key does not support", KeyMisconfigured, "its external key may not both encrypt and decrypt"),
    Row("could not authenticate", KeyMisconfigured, "the proxy of its external key store refuses AWS KMS"),
    Row("invalid uri path", KeyMisconfigured, "the proxy of its external key store has another path"),
    Row("very high request rate", KeyStoreThrottled, "the proxy of its external key store is too busy", again=True),
    Row("did not respond", KeyUnreachable, _PROXY_SILENT, again=True),
    Row("cannot communicate with the external key manager", KeyUnreachable, "its external key manager does not answer"),
    Row("communicate with the external key store proxy", KeyUnreachable, _PROXY_SILENT),
    Row("unhealthy state", KeyUnreachable, "the proxy of its external key store is unwell"),
    Row("cannot interpret the response", KeyUnreachable, "the proxy of its external key store answers nonsense"),
    Row("does not support the requested", OperationUnsupported, "the proxy of its external key store cannot do that"),
    Row("additional authenticated data is corrupted", CiphertextInvalid, _NOT_OURS),
    Row("or the encryption context, is corrupted", CiphertextInvalid, _NOT_OURS),
)
OTHER_MESSAGE = Row("any other message", KeyUnreachable, "AWS KMS cannot use the key, and does not say why")

EXCEPTIONS: tuple[Row, ...] = (
    Row("ConnectTimeoutError", KeyUnreachable, "AWS does not take connections", again=True),
    Row("ReadTimeoutError", KeyUnreachable, "AWS does not answer in time", again=True),
    Row("EndpointConnectionError", KeyUnreachable, "AWS cannot be reached", again=True),
    Row("ConnectionClosedError", KeyUnreachable, "AWS closed the connection", again=True),
    Row("ProxyConnectionError", KeyUnreachable, "the way to AWS, a proxy, cannot be reached", again=True),
    Row("SSLError", KeyUnreachable, "no TLS connection to AWS can be made"),
    Row("HTTPClientError", KeyUnreachable, "the connection to AWS failed", again=True),
    Row("ConnectionError", KeyUnreachable, "the connection to AWS failed", again=True),
    Row("ResponseStreamingError", KeyUnreachable, "the connection to AWS broke off", again=True),
    Row("IncompleteReadError", KeyUnreachable, "the connection to AWS broke off", again=True),
    Row("ResponseParserError", KeyUnreachable, "what answers at the endpoint is not AWS"),
    Row("NoCredentialsError", StoreMisconfigured, _NO_CREDENTIALS),
    Row("PartialCredentialsError", StoreMisconfigured, "our AWS credentials are incomplete"),
    Row("CredentialRetrievalError", StoreMisconfigured, "our AWS credentials cannot be fetched"),
    Row("MetadataRetrievalError", StoreMisconfigured, "our AWS credentials cannot be fetched"),
    Row("TokenRetrievalError", StoreMisconfigured, "our AWS credentials cannot be fetched"),
    Row("NoAuthTokenError", StoreMisconfigured, _NO_CREDENTIALS),
    Row("SSOError", StoreMisconfigured, "our AWS login has ended: log in again"),
    Row("LoginError", StoreMisconfigured, "our AWS login has ended: log in again"),
    Row("RefreshWithMFAUnsupportedError", StoreMisconfigured, "our AWS credentials need a code of a person's"),
    Row("ProfileNotFound", StoreMisconfigured, "there is no such AWS profile: check profile"),
    Row("ConfigNotFound", StoreMisconfigured, _CONFIGURATION),
    Row("ConfigParseError", StoreMisconfigured, _CONFIGURATION),
    Row("InvalidConfigError", StoreMisconfigured, _CONFIGURATION),
    Row("InfiniteLoopConfigError", StoreMisconfigured, _CONFIGURATION),
    Row("UnknownCredentialError", StoreMisconfigured, _CONFIGURATION),
    Row("MissingDependencyException", StoreMisconfigured, _CONFIGURATION),
    Row("InvalidProxiesConfigError", StoreMisconfigured, _CONFIGURATION),
    Row("InvalidRegionError", StoreMisconfigured, _ENDPOINT),
    Row("NoRegionError", StoreMisconfigured, _ENDPOINT),
    Row("EndpointProviderError", StoreMisconfigured, _ENDPOINT),
    Row("EndpointVariantError", StoreMisconfigured, _ENDPOINT),
    Row("BaseEndpointResolverError", StoreMisconfigured, _ENDPOINT),
    Row("InvalidEndpointConfigurationError", StoreMisconfigured, _ENDPOINT),
    Row("ParamValidationError", OperationUnsupported, "that is no request to AWS KMS"),
)
OTHER_EXCEPTION = Row("any other exception", KeyUnreachable, "AWS cannot be asked")


def _index(rows: Iterable[Row]) -> Mapping[tuple[str, When], Row]:
    return {(row.sign, row.when): row for row in rows}


_CODES, _STATES, _EXCEPTIONS = _index(CODES), _index(STATES), _index(EXCEPTIONS)


def by_code(code: str, when: When = When.ALWAYS) -> Row:
    """What a code means."""
    return _CODES.get((code, when), OTHER_CODE)


def by_state(state: str, when: When = When.ALWAYS) -> Row | None:
    """What a key state means, of a key that just refused; None for one in which it should not have."""
    return _STATES.get((state, when))


def by_message(message: str) -> Row | None:
    """What the words of a KMSInvalidStateException mean, where they are an external key store's."""
    said = message.lower()
    return next((row for row in MESSAGES if row.sign in said), None)


def state_in(message: str) -> str:
    """The key state that a message names; empty where it names none."""
    return next((state for words, state in STATE_WORDS.items() if words in message.lower()), "")


def by_exception(error: Exception) -> Row:
    """What an exception of botocore's own means: the nearest of its kind."""
    for kind in type(error).__mro__:
        row = _EXCEPTIONS.get((kind.__name__, When.ALWAYS))
        if row is not None:
            return row
    return OTHER_EXCEPTION

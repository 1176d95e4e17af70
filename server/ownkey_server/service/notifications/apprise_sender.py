"""Notices through Apprise (https://github.com/caronc/apprise), for what is neither a webhook nor mail.

Apprise's own HTTP connects to wherever a URL leads, so that only schemes that the provider names are let in, and of
those whose URL names a host (such as ``ntfys`` or ``matrixs``) only hosts that the provider names too. It follows no
redirect, and its log, which repeats tokens, is kept silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ownkey_server.domain.notifications import APPRISE_NEVER, Channel, Notice
from ownkey_server.domain.secret_bytes import SecretBytes
from ownkey_server.service.notifications.sending import DeliveryFailed

MISSING = "this service's installation has no Apprise: its provider has to install ownkey[apprise]"
THREADS = 8
# What Apprise and the libraries under it log: URLs with tokens, what was wrong with a token, what is signed by it.
_TALKATIVE = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "httpx", "httpcore")


class AppriseRefused(ValueError):
    """A URL that is not let in. The message does not repeat it: it holds tokens."""


def is_installed() -> bool:
    """Whether there is an Apprise to send by."""
    try:
        import apprise  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def checked(url: str, schemes: Collection[str], hosts: Collection[str]) -> Any:
    """The service that a URL names, if it may be used.

    Raises:
        AppriseRefused: It may not be.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in schemes:
        there = f"; allowed are: {', '.join(sorted(schemes))}" if schemes else "; none is"
        raise AppriseRefused(f"its scheme is not among those that the provider allows{there}")
    if scheme in APPRISE_NEVER:
        raise AppriseRefused(f"its scheme {APPRISE_NEVER[scheme]}")
    if not is_installed():
        raise AppriseRefused(MISSING)
    from apprise import Apprise, AppriseAsset  # noqa: PLC0415

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)

    # Switches of Apprise's own, such as one that ends the check of certificates, are not a tenant's to set.
    if "?" in url:
        raise AppriseRefused("must have no ?arguments: they would change how Apprise connects")
    service = Apprise.instantiate(url, AppriseAsset(http_redirects=False), suppress_exceptions=True)
    if service is None:
        raise AppriseRefused("is no URL that Apprise understands")
    named = any("{host}" in template for template in getattr(service, "templates", ()))
    if named and (getattr(service, "host", None) or "") not in hosts:
        raise AppriseRefused("names a host that is not among those that the provider allows for Apprise")
    return service


class AppriseSender:
    """Sends through Apprise, on threads of its own."""

    def __init__(self, schemes: Collection[str], hosts: Collection[str], attempt: float) -> None:
        self._schemes = frozenset(schemes)
        self._hosts = frozenset(hosts)
        self._attempt = attempt
        self._threads = [ThreadPoolExecutor(THREADS, f"apprise-{lane}") for lane in ("fast", "slow")]

    async def send(
        self,
        channel: Channel,  # noqa: ARG002
        secrets: Sequence[SecretBytes],
        notice: Notice,
        *,
        slow: bool,
    ) -> str:
        """Send one; arguments and errors as for :class:`~ownkey_server.service.notifications.sending.Sender`."""
        if not secrets:
            raise DeliveryFailed("the channel has no URL")
        url = secrets[0].reveal().decode()
        asked = asyncio.get_running_loop().run_in_executor(self._threads[slow], self._send, url, notice)
        try:
            async with asyncio.timeout(self._attempt):
                done = await asked
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._attempt:g} s") from None
        except AppriseRefused as error:
            raise DeliveryFailed(f"the channel's URL {error}") from None
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, and its text may hold the URL
            raise DeliveryFailed(f"Apprise failed ({type(error).__name__})") from None
        if not done:
            raise DeliveryFailed("the service did not take it")
        return "taken by Apprise's service"

    def close(self) -> None:
        """Send no more. What is under way ends by itself."""
        for one in self._threads:
            one.shutdown(wait=False, cancel_futures=True)

    def _send(self, url: str, notice: Notice) -> bool:
        service = checked(url, self._schemes, self._hosts)
        about = notice.key or notice.tenant or "the service"
        return bool(service.notify(title=f"[ownkey] {notice.kind.value}: {about}", body=notice.payload().decode()))

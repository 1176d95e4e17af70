"""ownkey: customer-managed keys for communications. The client library, the container codec and the command line.

- :class:`Client` and :class:`AsyncClient` call a service, and raise what :mod:`ownkey.errors` lists
- :class:`AdminClient` administers tenants, keys and policies
- :mod:`ownkey.local` encrypts and decrypts on this machine, with keys from a service
- :mod:`ownkey.container` is the format of encrypted objects
- :mod:`ownkey.emergency` tells emergency calls
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ownkey.admin import AdminClient
    from ownkey.aio import AsyncClient
    from ownkey.client import Client
    from ownkey.errors import OwnkeyError
    from ownkey.models import Asset

__version__ = "0.1.0"

__all__ = ["AdminClient", "Asset", "AsyncClient", "Client", "OwnkeyError", "__version__"]

# Imported when asked for: whoever wants the container alone does not load gRPC.
_HOMES = {"AdminClient": "admin", "Asset": "models", "AsyncClient": "aio", "Client": "client", "OwnkeyError": "errors"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ownkey.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ownkey' has no attribute {name!r}")

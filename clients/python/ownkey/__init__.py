"""ownkey: customer-managed keys for communications. The client library, the container codec and the command line."""

__version__ = "0.1.0"

"""The command line ``ownkey``."""

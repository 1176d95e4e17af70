"""What the server adds to ``ownkey``: ``init``, ``serve``, ``keystore`` and ``db`` (``server``), ``audit``, ``aws``."""

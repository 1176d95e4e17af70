"""What the server adds to ``ownkey``: ``init``, ``serve``, ``keystore``, ``db``, ``audit``, ``aws``, ``hsm``."""

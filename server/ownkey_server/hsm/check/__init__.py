"""``ownkey hsm check``: whether a token will serve, line by line, in verdicts.

``runner`` starts ``child`` processes that have the vendor's module, and gathers what they find; ``steps`` are what
they do; ``verdicts`` are what comes of it; ``terminal`` and ``page`` show it. Nothing here writes to the token: keys
that are needed are objects of a session, and end with it.
"""

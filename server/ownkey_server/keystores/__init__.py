"""What holds customer keys: one file a key store, behind the interface in ``base.py``, listed in ``catalog.py``."""

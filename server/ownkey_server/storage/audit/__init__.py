"""The audit trail on disk.

``writer`` takes records, ``sealing`` chains them, ``checkpointing`` and ``signing`` sign what is chained, ``sink``
copies it out of reach, ``keeper`` and ``retention`` let it go, ``verify*`` check it, and ``export*`` hand it over.
"""

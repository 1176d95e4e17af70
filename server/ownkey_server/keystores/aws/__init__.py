"""Customer keys in AWS KMS.

``store`` is the key store. ``arn``, ``roles`` and ``access`` reach a key; ``calls``, ``errors``, ``denials``,
``canaries`` and ``judge`` say what an answer means; ``reach``, ``retries`` and ``shares`` bound what a call may cost;
``policies``, ``templates`` and ``verify`` are for the customer who enrols one.
"""

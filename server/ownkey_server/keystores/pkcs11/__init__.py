"""Customer keys in an HSM by PKCS#11 (OASIS, version 2.40 and later).

``store`` is the key store, ``tokens`` a token, ``module`` the vendor's library, ``answers`` what its return values
mean, and ``pin`` where the PIN comes from.
"""

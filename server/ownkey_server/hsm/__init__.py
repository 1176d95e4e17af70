"""The HSM operator's tools: what a token can do, and ceremonies that make, change and end the keys in it.

They need no running server. The vendor's module is never loaded into the process that people talk to: ``processes``
starts one for each token, so that a module that crashes or hangs ends in an error, and not in a terminal that is gone.
"""

"""The ownkey service.

The rooms, each of which may import only those below it:

- ``main``: settings -> parts -> a running server
- ``rpc``: gRPC messages to domain values and back; errors to status. No decisions.
- ``service``: the use cases: data keys, media streams, policy checks, the call gate, key status
- ``keystores``: what holds customer keys, behind one small interface
- ``storage``: where tenants, keys, groups and policy come from
- ``domain``: plain values and pure rules
"""

"""The use cases: data keys, media streams, policy checks, the call gate, key status."""

"""The control plane: what administrators read and change, each change recorded in the transaction that makes it."""

"""Generated from protos/ownkey/v1 by `make proto`."""

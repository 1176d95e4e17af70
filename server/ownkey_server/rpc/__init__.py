"""gRPC: messages to domain values and back, errors to status. No decision is made here."""

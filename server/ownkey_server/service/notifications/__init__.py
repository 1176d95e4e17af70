"""Telling tenants: the courier takes notices from the outbox, and senders bring them to receivers."""

"""Alembic's migrations: each step from one schema to the next."""

"""How Alembic runs a migration: on the connection that it was given, in one transaction."""

from __future__ import annotations

from alembic import context

from ownkey_server.storage.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    # SQLite cannot alter a table in place.
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()

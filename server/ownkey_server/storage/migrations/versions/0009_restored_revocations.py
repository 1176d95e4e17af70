"""By which change a revocation was restored: instances record that it is in force no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.add_column("revocations", sa.Column("restore_revision", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_revocations_restore_revision"), "revocations", ["restore_revision"])

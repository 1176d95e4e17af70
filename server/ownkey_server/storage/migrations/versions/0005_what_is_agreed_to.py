"""What a second person agrees to, how long audit records are kept, and by what name a place's wraps are counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    # What waits from before does not say what it changes, so nobody can agree to it: it is asked for anew.
    op.execute("DELETE FROM approvals")
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.add_column(sa.Column("author", sa.Text(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("change", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "audit_retention",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("age", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_retention_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_retention")),
    )
    op.create_table(
        "place_counters",
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("counter", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("store", "reference", name=op.f("pk_place_counters")),
    )
    op.execute("INSERT INTO place_counters (store, reference, counter) SELECT store, reference, key FROM replicas")

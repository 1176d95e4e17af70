"""Which keys have ever worked. Those that were tried when they were enrolled have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "first_uses",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "store", "reference", name=op.f("pk_first_uses")),
    )
    op.execute(
        "INSERT INTO first_uses (tenant, store, reference, time)"
        " SELECT COALESCE(customer_keys.tenant, ''), replicas.store, replicas.reference, replicas.verify_time"
        " FROM replicas JOIN customer_keys ON customer_keys.name = replicas.key"
        " WHERE replicas.verify_time IS NOT NULL"
    )

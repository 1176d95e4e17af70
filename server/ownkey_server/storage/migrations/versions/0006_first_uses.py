"""Which keys have ever worked, and as whom they were used.

Keys that were tried when they were enrolled (``replicas.verify_time``) are not entered: nobody wrote down who we were
then, so that it would count for nobody. They are entered when they next work, as at each look after them.
"""

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
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "store", "reference", "identity", name=op.f("pk_first_uses")),
    )

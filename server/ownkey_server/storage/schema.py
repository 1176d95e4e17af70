"""The one schema, for SQLite and PostgreSQL alike. Alembic's migrations make it; a test holds the two together.

Times are microseconds since 1970, so that both databases sort and compare them as numbers.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _times() -> tuple[sa.Column[int], sa.Column[int], sa.Column[int]]:
    """What every resource has: its etag, which is the revision of its last change, and two times."""
    return (
        sa.Column("etag", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )


# One row. Every administrative change takes it first, which puts changes in one order on all instances.
REVISION = sa.Table(
    "revision",
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)

# When each tenant was last changed, for the instances that hold a view of it; those that were deleted stay. An empty
# tenant is the provider.
CHANGES = sa.Table(
    "changes",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False, index=True),
)

TENANTS = sa.Table(
    "tenants",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("enrolled_at", sa.BigInteger, nullable=False),
    sa.Column("call_gate", sa.Text, nullable=False),
    sa.Column("policy_version", sa.Integer, nullable=False),
    *_times(),
)

CUSTOMER_KEYS = sa.Table(
    "customer_keys",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id"), index=True),
    sa.Column("lifecycle", sa.Text, nullable=False),
    *_times(),
)

REPLICAS = sa.Table(
    "replicas",
    METADATA,
    sa.Column("key", sa.Text, sa.ForeignKey("customer_keys.name"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("verify_time", sa.BigInteger),
    # One key of a store under two names would let one tenant's revocation, or policy, reach another's content.
    sa.UniqueConstraint("store", "reference", name="uq_replicas_place"),
)

GROUPS = sa.Table(
    "groups",
    METADATA,
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    *_times(),
)

GROUP_USERS = sa.Table(
    "group_users",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("group_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.ForeignKeyConstraint(["tenant", "group_id"], ["groups.tenant", "groups.id"], name="fk_group_users_group"),
)

POLICY_VERSIONS = sa.Table(
    "policy_versions",
    METADATA,
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

SERVICE_PRINCIPALS = sa.Table(
    "service_principals",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("grants", sa.Text, nullable=False, server_default="[]"),
    *_times(),
)

# Changes that wait for a second person, or were approved and wait to be made.
APPROVALS = sa.Table(
    "approvals",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    # Of the request, with who stands behind it and why: another request is another change.
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("approved_by", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("expire_time", sa.BigInteger, nullable=False),
    sa.Column("author", sa.Text, nullable=False, server_default=""),
    # All that is dangerous in it, before and after: what somebody agrees to, and what may be done, is this alone.
    sa.Column("change", sa.Text, nullable=False, server_default=""),
)

# How long audit records are kept at least, as was agreed. One row, or none yet. NULL is for ever.
AUDIT_RETENTION = sa.Table(
    "audit_retention",
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("age", sa.BigInteger),
    sa.Column("etag", sa.BigInteger, nullable=False),
)

# Wraps that were reserved for each key, by all instances together; counted upwards only, and never forgotten.
KEY_USAGE = sa.Table(
    "key_usage",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("reserved", sa.BigInteger, nullable=False),
)

# When each key was first seen to work, in each tenant's name (empty for the provider), at each place, and for each of
# those who we were to it.
FIRST_USES = sa.Table(
    "first_uses",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("time", sa.BigInteger, nullable=False),
)

# Keys that wrap data keys, themselves wrapped under a customer key. A row outlives the key, and the tenant: it is what
# a customer needs to open what it has, and ids of tenants are never used again.
BRANCH_KEYS = sa.Table(
    "branch_keys",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("first_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "key", "version", name="uq_branch_keys_version"),
    # Of several instances that make one at once, one does.
    sa.Index(
        "ix_branch_keys_active",
        "tenant",
        "key",
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    ),
    sa.Index("ix_branch_keys_key", "key"),
)

# By what name the wraps of whatever key is at a place are counted: that of the first key that was there. It is never
# forgotten, so that a key which is enrolled anew under another name goes on from where it was.
PLACE_COUNTERS = sa.Table(
    "place_counters",
    METADATA,
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("counter", sa.Text, nullable=False),
)

# What tenants have taken back here. A row stays when it was restored: it is what receipts and the trail speak of.
REVOCATIONS = sa.Table(
    "revocations",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("ending", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("restore_time", sa.BigInteger),
    # Of the change by which it came into force: instances ask for those that are new to them.
    sa.Column("revision", sa.BigInteger, nullable=False, index=True),
    # Of the change by which it was restored.
    sa.Column("restore_revision", sa.BigInteger, index=True),
    sa.Index("ix_revocations_tenant", "tenant", "create_time"),
)

# One row: the number of the last sighting of a key that was written. Whoever writes takes it first and keeps it to the
# commit, so that numbers are in the order of commits, and whoever has read up to one has missed nothing before it.
KEY_STATE_NUMBER = sa.Table(
    "key_state_number",
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    # Up to which changes were pruned: who has read less has missed some.
    sa.Column("pruned", sa.BigInteger, nullable=False),
)

# What all instances hold of each key in each place, and as a whole (an empty replica).
KEY_STATES = sa.Table(
    "key_states",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("ours", sa.Boolean, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("observed_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("number", sa.BigInteger, nullable=False, index=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

# Every change of a key's state, in the order of commits. Rows are added, and pruned by age.
KEY_TRANSITIONS = sa.Table(
    "key_transitions",
    METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False, index=True),
    sa.Index("ix_key_transitions_tenant", "tenant", "sequence"),
)

# Who probes a key now, and until when nobody else does.
PROBE_LEASES = sa.Table(
    "probe_leases",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)

# Throw-away bytes that each key has wrapped, to be opened by probes. Of the bytes themselves there is a digest alone.
KEY_CANARIES = sa.Table(
    "key_canaries",
    METADATA,
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
)

# One row. Whoever puts a notice takes it, after all other rows that changes are ordered by: it moves whenever there may
# be something to deliver.
NOTICE_NUMBER = sa.Table(
    "notice_number",
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)

# Ways to tenants' receivers; an empty tenant is the provider. One instance at a time delivers by each of them.
NOTIFICATION_CHANNELS = sa.Table(
    "notification_channels",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("recipients", sa.Text, nullable=False),
    sa.Column("scheme", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    # Encrypted under the provider's key.
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column("former", sa.LargeBinary, nullable=False),
    sa.Column("former_until", sa.BigInteger),
    sa.Column("lease_owner", sa.Text, nullable=False, server_default=""),
    sa.Column("lease_until", sa.BigInteger, nullable=False, server_default="0"),
    *_times(),
)

# What tenants are told, each row written in the transaction of what it tells.
NOTICES = sa.Table(
    "notices",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    # NULL for what may be told as often as it happens.
    sa.Column("once", sa.Text),
    sa.UniqueConstraint("tenant", "once", name="uq_notices_once"),
    sa.Index("ix_notices_tenant_time", "tenant", "time", "id"),
    sa.Index("ix_notices_time", "time"),
)

# The last position that was given among the notices of each key; notices go in time, and this stays.
NOTICE_POSITIONS = sa.Table(
    "notice_positions",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)

# Each notice on its way through each channel.
NOTICE_DELIVERIES = sa.Table(
    "notice_deliveries",
    METADATA,
    sa.Column("channel", sa.Text, sa.ForeignKey("notification_channels.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("notice", sa.Text, sa.ForeignKey("notices.id", ondelete="CASCADE"), primary_key=True),
    # As in the notice: those of one key go one after the other.
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_time", sa.BigInteger, nullable=False),
    sa.Column("next_time", sa.BigInteger, nullable=False),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("last_error", sa.Text, nullable=False),
    sa.Index("ix_notice_deliveries_notice", "notice"),
    sa.Index(
        "ix_notice_deliveries_pending",
        "channel",
        "key",
        "position",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
)

# A process that writes audit records. Its head moves, newly signed, in the transaction that adds the records.
AUDIT_WRITERS = sa.Table(
    "audit_writers",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("description", sa.LargeBinary, nullable=False),
    sa.Column("head_sequence", sa.BigInteger, nullable=False),
    sa.Column("head_hash", sa.LargeBinary, nullable=False),
    sa.Column("head_time", sa.BigInteger, nullable=False),
    sa.Column("head_signature", sa.LargeBinary, nullable=False),
    sa.Column("seen_time", sa.BigInteger, nullable=False),
    sa.Column("closed", sa.Boolean, nullable=False),
)

AUDIT_RECORDS = sa.Table(
    "audit_records",
    METADATA,
    sa.Column("writer", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Index("ix_audit_records_time", "time"),
    sa.Index("ix_audit_records_tenant_time", "tenant", "time"),
    sqlite_with_rowid=False,
)

# A closed part of one writer's chain. Its signed description stays when retention has removed its records.
AUDIT_SEGMENTS = sa.Table(
    "audit_segments",
    METADATA,
    sa.Column("writer", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("first_sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("last_time", sa.BigInteger, nullable=False),
    sa.Column("description", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("exported", sa.Boolean, nullable=False),
    sa.Column("removed", sa.Boolean, nullable=False),
)

# Signed statements of how far every chain had come, each bound to the one before.
AUDIT_CHECKPOINTS = sa.Table(
    "audit_checkpoints",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("description", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("exported", sa.Boolean, nullable=False),
)

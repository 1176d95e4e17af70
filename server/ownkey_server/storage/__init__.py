"""Where tenants, keys, groups and policies come from."""

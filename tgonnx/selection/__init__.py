"""Which units to keep: masks, criteria, budgets."""

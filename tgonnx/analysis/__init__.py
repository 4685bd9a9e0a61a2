"""What can be cut together: shapes, sizes that depend on dynamic axes, labels, coupling, cost."""

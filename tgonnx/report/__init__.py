"""What runs tell, as tables and as plain data."""

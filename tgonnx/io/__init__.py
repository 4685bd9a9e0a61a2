"""Files: reading, checking, limits, writing."""

"""What tgonnx knows of an operator, aspect by aspect: the tables, and what a rule sees of a node."""

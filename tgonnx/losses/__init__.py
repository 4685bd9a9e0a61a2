"""What is learned from, and how it is measured."""

"""Graphs as they are stored: building nodes, expanding definitions, what a model declares."""

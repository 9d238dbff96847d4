"""Experiments beside the package, each in a folder of its own with its command and its committed results."""

"""Data sets of the downstream tasks, read in the layouts that they are published in."""

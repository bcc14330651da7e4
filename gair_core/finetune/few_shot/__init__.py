"""Heads trained from a few labelled polygons or points, in seconds."""

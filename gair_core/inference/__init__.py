"""Scenes of any size in, georeferenced results out: the engine, its tasks and their writers."""

"""Importers: checkpoints of other projects become ours."""

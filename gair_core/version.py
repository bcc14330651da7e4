"""The version of gair_core, readable without importing torch."""

__version__ = "0.1.0"

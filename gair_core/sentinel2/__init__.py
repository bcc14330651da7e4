"""Sentinel-2 scenes as users have them, opened as ten bands on one grid."""

"""Evaluation: the tables of the paper beside finished runs, and the geo-bias score."""

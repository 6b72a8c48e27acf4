"""Rows for comparing, training and evaluating."""

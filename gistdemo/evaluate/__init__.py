"""Measuring: recovery of known answers, and generated answers of many rows. What is found is kept as `gistdemo.results`."""

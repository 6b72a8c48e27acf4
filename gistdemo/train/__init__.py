"""Training runs: one loop, several objectives, everything on record in the run directory."""

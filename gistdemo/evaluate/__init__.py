"""How good a checkpoint is on many rows: recovery of known answers, and generated answers scored and flagged."""

"""What ``chatpager bench`` runs: every figure comes from one run, with the command that repeats it."""

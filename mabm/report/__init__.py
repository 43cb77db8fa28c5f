"""The page on a run, its tables and figures, and what of the last epoch it shows."""

"""The command ``python -m mabm.compat``: finds, compares and rewrites imports in a code base."""

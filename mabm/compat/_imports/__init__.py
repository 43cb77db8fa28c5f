"""The old import paths: the names that each has, and the finders that redirect them here."""

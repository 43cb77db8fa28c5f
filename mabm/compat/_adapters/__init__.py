"""Code that several drop-in modules share: old arguments, distances and memories."""

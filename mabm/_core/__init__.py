"""Shared by all stages, and imports none: argument checks, arrays, devices, files, compiled ops."""

"""Shared by all stages: argument checks, arrays, devices, files, compiled ops. Imports no stage."""

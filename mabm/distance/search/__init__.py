"""Approximate neighbor searches: the protocol, and adapters of other libraries."""

"""Libraries that nobody lists: reactions, their reagents, and products made when they are looked at.

The names for users are in `sggp.molecules`; this file imports nothing, so that worker processes load RDKit alone.
"""

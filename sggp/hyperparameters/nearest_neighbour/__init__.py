"""Vecchia's likelihood: every row given its nearest earlier rows."""

"""The exact log marginal likelihood, on all rows or on small neighbourhoods of them."""

"""The marginal likelihood of all rows by iterative solves: its value, its gradient, and fits that climb it."""

"""Draws of the hyperparameters from their posterior, and predictions mixed over them."""

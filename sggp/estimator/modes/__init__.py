"""Estimators without a fit, and of kernels that come as matrices."""

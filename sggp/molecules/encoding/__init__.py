"""What the columns of a fingerprint are: parts side by side, and descriptors as whole numbers."""

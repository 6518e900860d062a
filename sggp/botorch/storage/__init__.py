"""BoTorch models and their transforms as tensors and plain values, and on disk."""

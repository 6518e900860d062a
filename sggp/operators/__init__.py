"""K + Σ as something that multiplies."""

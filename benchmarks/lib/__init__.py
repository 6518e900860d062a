"""What the benchmarks share: processes and tables, systems, and the peers."""

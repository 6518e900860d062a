"""The commands on molecules: `sggp demo`, `sggp suggest`, and the users' files that they read."""

"""From a table to a fitted model: kernel, scaling, learning and conditioning, the same for every face."""

"""What a model is judged by: predictions of rows that it has not seen."""

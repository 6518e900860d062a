"""Models of inputs with columns of a kind of their own: tasks, categories, fidelities."""

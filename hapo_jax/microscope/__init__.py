"""A run in a browser, down to each token: one HTML file that needs nothing else."""

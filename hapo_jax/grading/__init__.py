"""Processes that grade completions, and who watches them. Never imports jax."""

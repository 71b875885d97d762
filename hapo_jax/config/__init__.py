"""Experiments: every setting, the methods, the command line, and what is refused.

An experiment file needs the five functions below, and nothing else of this folder.
"""

from hapo_jax.config.arguments import parse_arg
from hapo_jax.config.defaults import default, default_sft
from hapo_jax.config.presets import apply_method, apply_preset

__all__ = ["apply_method", "apply_preset", "default", "default_sft", "parse_arg"]

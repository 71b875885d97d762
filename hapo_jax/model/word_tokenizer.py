"""A tokenizer with one token per word, for small tasks with their own vocabulary."""

import pathlib

import tokenizers

from hapo_jax.system.errors import Refused

UNKNOWN, PAD, END = "<unk>", "<pad>", "<eos>"


def write(folder: str | pathlib.Path, words: list[str]) -> None:
    """Writes a Hugging Face tokenizer that splits at spaces and knows `words`.

    Ids 0, 1, 2 are <unk>, <pad>, <eos>; `words` follow in order.

    Raises:
      Refused: a word occurs twice or contains a space.
    """
    import transformers

    bad = [w for w in words if not w or w != w.strip() or " " in w]
    if bad or len(set(words)) != len(words):
        raise Refused(f"words must be distinct and without spaces; see {bad[:5]}.")
    vocabulary = {word: i for i, word in enumerate([UNKNOWN, PAD, END, *words])}
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=UNKNOWN, pad_token=PAD, eos_token=END
    ).save_pretrained(folder)

"""Text to token ids and back, and which tokens end a completion.

A thin layer over `transformers`' fast tokenizers: one way to turn a prompt into ids,
one to turn ids into text, and the set of stop tokens, which Hugging Face spreads over
three files. Nothing here reaches the network, and nothing imports jax.
"""

import contextlib
import dataclasses
import datetime
import difflib
import functools
import inspect
import json
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import transformers

# Ends of a turn in the chat formats of Qwen and Llama 3. Base checkpoints carry the
# token but do not list it as a stop, and a policy may learn to end with it.
CHAT_ENDS = ("<|im_end|>", "<|eot_id|>")
CHAT_MODES = ("auto", "chat", "plain")

# Everything that a tokenizer can consist of. Exports copy these byte for byte: written
# anew, transformers 5 names a class in `tokenizer_config.json` that 4 cannot load.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_CONFIGS = ("generation_config.json", "config.json")  # which name stop tokens too

# The function by which a template asks for the time, its formats' directives, and how
# `date_string` may be written where it is the answer.
_CLOCK = "strftime_now"
_DIRECTIVES = "aAbBcdGHIjmMpSuUVwWxXyY"
_DATES = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%b %d, %Y", "%B %d, %Y")

Message = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its stop tokens.

    Attributes:
      backend: the `transformers` tokenizer.
      stop_ids: ids that end a completion, the tokenizer's own end token first.
      pad_id: the id that fills unused positions; masks decide, never this id.
      folder: where the tokenizer's files are, or None if it was built in memory.
    """

    backend: transformers.PreTrainedTokenizerFast
    stop_ids: tuple[int, ...]
    pad_id: int
    folder: pathlib.Path | None = None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's V may be larger, never smaller."""
        return 1 + max(self.backend.get_vocab().values())

    def unused_ids(self, vocab_size: int) -> tuple[tuple[int, int], ...]:
        """Ranges (first, behind the last) of ids below `vocab_size` without a token."""
        known = np.zeros(vocab_size + 2, bool)
        ids = np.fromiter(self.backend.get_vocab().values(), np.int64)
        known[ids[ids < vocab_size] + 1] = True
        known[[0, -1]] = True  # fences
        ends = np.flatnonzero(np.diff(known))
        return tuple((int(a), int(b)) for a, b in ends.reshape(-1, 2))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no token is put before or after it."""
        return self.backend.encode(text, add_special_tokens=False)

    def encode_prompt(
        self,
        prompt: str | Sequence[Message],
        *,
        chat_template: str = "auto",
        template_options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a prompt, ready for the policy to continue.

        'chat' renders the tokenizer's template, with the opening of the assistant's
        turn; a string counts as one user message. 'plain' takes the text as it is
        (messages are joined by an empty line) with the tokenizer's own begin token
        if it has one. 'auto' is 'chat' where the tokenizer has a template.

        Args:
          prompt: text, or messages with the keys `role` and `content`.
          chat_template: 'auto', 'chat' or 'plain'.
          template_options: variables for the template, such as
            `{"enable_thinking": False}` (Qwen3). `date_string` is also what a template
            gets that asks for the time.

        Raises:
          ValueError: 'chat' without a template, an unknown mode, a template that
            refuses the messages, an option that the template does not read or that
            there is no template for, a template that asks for the time without
            `date_string`, or an assistant message in a plain prompt.
        """
        if chat_template not in CHAT_MODES:
            raise ValueError(f"{chat_template=} is not one of {', '.join(CHAT_MODES)}.")
        has_template = bool(self.backend.chat_template)
        options = template_options or {}
        if chat_template == "plain" or (chat_template == "auto" and not has_template):
            if options:
                raise ValueError(
                    f"template_options={dict(options)} are of a chat template, and "
                    f"prompts are plain: {chat_template=}, and the tokenizer in "
                    f"{self.folder} has {'a' if has_template else 'no'} template; "
                    "leave them out, or use chat_template='chat'."
                )
            return self.backend.encode(_plain_text(prompt))
        if not has_template:
            raise ValueError(
                f"chat_template='chat', but the tokenizer in {self.folder} has no chat "
                "template; add chat_template.jinja to that folder, or use 'plain'."
            )
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        template = self.backend.get_chat_template()
        if options:
            self._check_options(template, options)
        date = options.get("date_string")
        try:
            text = self.backend.apply_chat_template(
                [dict(message) for message in prompt],
                tokenize=False,
                add_generation_prompt=True,
                chat_template=_without_clock(template, date),
                **options,
            )
        except jinja2.TemplateError as error:
            if str(error) == _CLOCK:
                given = f", and {date!r} cannot be read as a day" if date else ""
                raise ValueError(
                    f"the chat template in {self.folder} asks for the time{given}: a "
                    "run that is resumed on another day would see other prompts. Give "
                    "the day that prompts shall name, as in "
                    "--config.task.template_options.date_string='26 Jul 2024'."
                ) from error
            raise ValueError(
                f"the chat template in {self.folder} refuses the messages {prompt}: "
                f"{error}"
            ) from error
        # The template has written the begin token; encoding must not add another.
        return self.encode(text)

    def _check_options(self, template: str, options: Mapping[str, Any]) -> None:
        """Refuses options that would change nothing, or break the call."""
        words = set(re.findall(r"[A-Za-z_]\w*", template))
        if _CLOCK in words:
            words.add("date_string")
        # What this file says itself, and what transformers does.
        taken = {*inspect.signature(self.backend.apply_chat_template).parameters}
        taken = (taken | {"messages", _CLOCK}) - {"tools", "documents"}
        date = options.get("date_string", "")
        if not isinstance(date, str):
            raise ValueError(
                f"template_options: date_string={date!r} must be a text, such as "
                "'26 Jul 2024'."
            )
        for name in options:
            if name in taken or name not in words:
                near = difflib.get_close_matches(name, words - taken, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"template_options: the chat template in {self.folder} reads no "
                    f"{name!r}{hint}; correct it or leave it out."
                )

    def fingerprint(self) -> str:
        """A checksum of what each id stands for: its token, its text, its place.

        Other entries change it, another order of them, and other special tokens; other
        merges or a rule by which text is cut do not, as they show in a prompt's ids.
        """
        ids = list(range(self.vocab_size))
        tokens = self.backend.convert_ids_to_tokens(ids)
        # Each twice, for what a decoder puts between two tokens.
        texts = self.backend.backend_tokenizer.decode_batch(
            [[i, i] for i in ids], skip_special_tokens=True
        )
        return f"{zlib.crc32(json.dumps([tokens, texts]).encode()):08x}"

    def files(self) -> list[pathlib.Path]:
        """The files in `folder` that prompts, texts and stop tokens come from."""
        if self.folder is None:
            return []
        found = (self.folder / name for name in (*_FILES, *_CONFIGS))
        return [path for path in found if path.is_file()]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of `ids`; special tokens, stops among them, are left out by default.

        Ids from `vocab_size` on, which a padded vocabulary allows, give no text.
        """
        return self.backend.decode(
            [int(i) for i in ids],
            skip_special_tokens=not keep_special,
            clean_up_tokenization_spaces=False,
        )

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token's own text, for display; a split character shows as `\ufffd`."""
        return [self.decode([i], keep_special=True) for i in ids]

    def save(self, folder: str | pathlib.Path) -> None:
        """Puts the tokenizer's files into the existing `folder`.

        Raises:
          ValueError: the folder that it was loaded from no longer holds them.
        """
        if self.folder is None:
            self.backend.save_pretrained(folder)
            return
        present = [name for name in _FILES if (self.folder / name).is_file()]
        if not present:
            raise ValueError(
                f"the tokenizer's files are gone from {self.folder}; restore them or "
                "load the tokenizer from where they are now."
            )
        for name in present:
            shutil.copyfile(self.folder / name, pathlib.Path(folder) / name)


def load(path: str | pathlib.Path, *, stop: Sequence[str] = ()) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face folder, from its files alone.

    A completion stops at the tokenizer's end token, at each `eos_token_id` of
    `generation_config.json` and `config.json`, at the ends of a chat turn
    (`CHAT_ENDS`) that the vocabulary has, and at each string of `stop`.

    Args:
      path: a folder with `tokenizer.json` (or `vocab.json` and `merges.txt`).
      stop: further stop tokens, as text; each must be a single token.

    Raises:
      ValueError: no tokenizer in the folder, a stop that is not a single token, an
        `eos_token_id` that is an ordinary token, or no stop token at all.
    """
    folder = pathlib.Path(path)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(
            f"{folder} holds neither tokenizer.json nor vocab.json; copy the "
            "tokenizer's files there (a .gz must be unpacked)."
        )
    # tokenizer.json says everything. AutoTokenizer of transformers 5 takes the class of
    # `model_type` instead, and Qwen2's keeps nothing of the file but its vocabulary.
    kind = (
        transformers.PreTrainedTokenizerFast
        if (folder / "tokenizer.json").is_file()
        else transformers.AutoTokenizer
    )
    backend = kind.from_pretrained(folder, local_files_only=True)
    stop_ids = _stop_ids(backend, folder, stop)
    pad_id = backend.pad_token_id
    return Tokenizer(
        backend=backend,
        stop_ids=stop_ids,
        pad_id=stop_ids[0] if pad_id is None else pad_id,
        folder=folder,
    )


@functools.cache
def _without_clock(template: str, date: str | None) -> str:
    """The template, in which the function for the time gives `date`, or refuses.

    A macro of the same name does it: transformers passes no functions to a template.
    """
    if _CLOCK not in template:
        return template
    day = _day(date)
    if day is None:
        body = f"{{{{ raise_exception({_CLOCK!r}) }}}}"
    else:
        texts = {}
        for directive in _DIRECTIVES:
            text = day.strftime(f"%{directive}")
            # `%-d` is `%d` without a leading zero.
            texts |= {f"%{directive}": text, f"%-{directive}": text.lstrip("0") or "0"}
        body = (
            "{%- set now = namespace(text=format) -%}"
            f"{{%- for directive, text in {texts!r}.items() -%}}"
            "{%- set now.text = now.text | replace(directive, text) -%}"
            "{%- endfor -%}{{ now.text }}"
        )
    macro = f"{{%- macro {_CLOCK}(format) -%}}{body}{{%- endmacro %}}"
    return f"{macro}\n{template}"  # which begins on a line of its own, as before


def _day(date: str | None) -> datetime.datetime | None:
    """Its midnight; None if it is written in none of the ways of `_DATES`."""
    for form in _DATES:
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(date or "", form)
    return None


def _plain_text(prompt: str | Sequence[Message]) -> str:
    if isinstance(prompt, str):
        return prompt
    roles = [message["role"] for message in prompt]
    if "assistant" in roles:
        raise ValueError(
            f"a plain prompt cannot hold an assistant message, found {roles=}; use "
            "chat_template='chat'."
        )
    return "\n\n".join(message["content"] for message in prompt)


def _stop_ids(backend, folder: pathlib.Path, stop: Sequence[str]) -> tuple[int, ...]:
    ids = [] if backend.eos_token_id is None else [backend.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        ids += _eos_ids(backend, folder / name)
    vocabulary = backend.get_vocab()
    ids += [vocabulary[token] for token in CHAT_ENDS if token in vocabulary]
    ids += [_single_id(backend, text) for text in stop]
    if not ids:
        raise ValueError(
            f"{folder} names no end token (eos_token in tokenizer_config.json, "
            "eos_token_id in generation_config.json); add one, or give a stop string."
        )
    return tuple(dict.fromkeys(ids))  # the first of each, in order


def _eos_ids(backend, file: pathlib.Path) -> list[int]:
    """The `eos_token_id` of a config file: absent, one id, or several."""
    if not file.is_file():
        return []
    eos = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    # A config written with default values points at whatever token 2 is, and every
    # completion would end at the first "#". Ordinary tokens are believed only beside
    # the tokenizer's own end token.
    own = backend.eos_token_id
    ordinary = [i for i in ids if i not in backend.added_tokens_decoder]
    known = set(backend.get_vocab().values())
    unknown = [i for i in ids if i not in known]
    if unknown or (ordinary and own is not None and own not in ids):
        tokens = {i: backend.convert_ids_to_tokens(i) for i in ordinary if i >= 0}
        raise ValueError(
            f"{file}: eos_token_id={eos} is not of this tokenizer, for which it is "
            f"{tokens}; write the id of its end token there, {own} "
            f"({backend.eos_token!r}), or null."
        )
    return ids


def _single_id(backend, text: str) -> int:
    ids = backend.encode(text, add_special_tokens=False)
    unknown = ids == [backend.unk_token_id] and text != backend.unk_token
    if len(ids) != 1 or unknown:
        what = "unknown to the tokenizer" if unknown else f"{len(ids)} tokens {ids}"
        raise ValueError(
            f"model.stop_tokens: {text!r} is {what}; a stop must be a single token of "
            "the vocabulary."
        )
    return ids[0]

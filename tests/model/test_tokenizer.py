"""Prompts to ids and back, stop tokens, and errors, on small tokenizers built here.

The real tokenizers are tested where their files are found (HAPO_DATA_DIR).
"""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys

import pytest
import tokenizers
import transformers

from hapo_jax.model import tokenizer as tokenizer_lib
from tests import real_data

ROOT = pathlib.Path(__file__).parents[2]
MODELS = real_data.FOLDER / "models"

TEMPLATE = (
    "{% if messages[0]['role'] == 'assistant' %}"
    "{{ raise_exception('must begin with a user') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }} <|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {{ mood }}"
    "{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
WORDS = ["user", "assistant", "system", "what", "is", "this", "calm", "stop"]
IDS = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}


def write(folder, *, template=TEMPLATE, special=SPECIAL, bos=False, **named):
    """A word tokenizer; `named` gives its eos_token, pad_token and so on."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, "<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", IDS["<bos>"])]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=special, **named
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def chat(tmp_path):
    return tokenizer_lib.load(
        write(tmp_path, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>")
    )


def ids(text):
    return [IDS[word] for word in text.split()]


def test_chat_prompt(chat):
    expected = ids("<|im_start|> user what is this <|im_end|> <|im_start|> assistant")
    messages = [{"role": "user", "content": "what is this"}]
    assert chat.encode_prompt("what is this") == expected
    assert chat.encode_prompt(messages) == expected
    assert chat.encode_prompt(messages, chat_template="chat") == expected
    calm = chat.encode_prompt(messages, template_options={"mood": "calm"})
    assert calm == [*expected, IDS["calm"]]


def test_plain_prompt(chat):
    assert chat.encode_prompt("what is", chat_template="plain") == ids("what is")
    messages = [
        {"role": "system", "content": "this is"},
        {"role": "user", "content": "what"},
    ]
    plain = chat.encode_prompt(messages, chat_template="plain")
    assert plain == ids("this is what")


@pytest.mark.parametrize("template", [None, "<bos>" + TEMPLATE])
def test_begin_token_comes_once(tmp_path, template):
    """A plain prompt gets it from the tokenizer, a chat prompt from its template."""
    folder = write(tmp_path, template=template, bos=True, eos_token="<eos>")
    tokenizer = tokenizer_lib.load(folder)
    plain = tokenizer.encode_prompt("what", chat_template="plain")
    assert plain == ids("<bos> what")
    assert tokenizer.encode_prompt("what").count(IDS["<bos>"]) == 1
    assert tokenizer.encode("what") == ids("what")


def test_auto_is_plain_without_a_template(tmp_path):
    tokenizer = tokenizer_lib.load(write(tmp_path, template=None, eos_token="<eos>"))
    assert tokenizer.encode_prompt("what is") == ids("what is")
    with pytest.raises(ValueError, match=r"no chat template; add chat_template.jinja"):
        tokenizer.encode_prompt("what is", chat_template="chat")


def test_refused_prompts(chat):
    with pytest.raises(ValueError, match=r"chat_template='qwen' is not one of auto"):
        chat.encode_prompt("what", chat_template="qwen")
    assistant = [{"role": "assistant", "content": "this"}]
    with pytest.raises(ValueError, match="must begin with a user"):
        chat.encode_prompt(assistant)
    with pytest.raises(ValueError, match="cannot hold an assistant message"):
        chat.encode_prompt(assistant, chat_template="plain")


def test_decode(chat):
    tokens = ids("what is this <|im_end|> <pad>")
    assert chat.decode(tokens) == "what is this"
    assert chat.decode(tokens, keep_special=True) == "what is this <|im_end|> <pad>"
    assert chat.pieces(tokens) == "what is this <|im_end|> <pad>".split()
    assert chat.vocab_size == len(IDS)
    assert chat.decode([IDS["what"], chat.vocab_size + 7]) == "what"


def test_stop_tokens_come_from_all_files_in_order(tmp_path):
    folder = write(tmp_path, eos_token="<eos>", pad_token="<pad>")
    config, generation = folder / "config.json", folder / "generation_config.json"
    assert tokenizer_lib.load(folder).stop_ids == (2, 4)  # <eos>, <|im_end|>
    config.write_text('{"model_type": "llama", "eos_token_id": 1}')
    generation.write_text('{"eos_token_id": [3, 2]}')
    tokenizer = tokenizer_lib.load(folder, stop=["stop", "<eos>"])
    assert tokenizer.stop_ids == (2, 3, 1, 4, IDS["stop"])
    config.write_text('{"model_type": "llama", "eos_token_id": null}')
    assert tokenizer_lib.load(folder).stop_ids == (2, 3, 4)


def test_pad_token(tmp_path):
    with_pad = write(tmp_path / "a", eos_token="<eos>", pad_token="<pad>")
    assert tokenizer_lib.load(with_pad).pad_id == 0
    without = write(tmp_path / "b", eos_token="<eos>")
    assert tokenizer_lib.load(without).pad_id == 2


def test_default_eos_of_another_vocabulary_is_refused(tmp_path):
    """transformers writes eos_token_id=2 unless told; "this" is such a token here."""
    folder = write(tmp_path, eos_token="<eos>")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": IDS["this"]}))
    with pytest.raises(ValueError, match=r"eos_token_id=10 .*'this'.* 2 \('<eos>'\)"):
        tokenizer_lib.load(folder)
    # Beside the tokenizer's own end token it is meant: an export with such a stop.
    file.write_text(json.dumps({"eos_token_id": [IDS["<eos>"], IDS["this"]]}))
    assert IDS["this"] in tokenizer_lib.load(folder).stop_ids
    for beyond in (len(IDS), -1):
        file.write_text(json.dumps({"eos_token_id": [IDS["<eos>"], beyond]}))
        with pytest.raises(ValueError, match=f"{beyond}.*not of this tokenizer"):
            tokenizer_lib.load(folder)


def test_bad_stops(tmp_path):
    folder = write(tmp_path, special=SPECIAL[:3])
    with pytest.raises(ValueError, match="stop_tokens: 'is this' is 2 tokens"):
        tokenizer_lib.load(folder, stop=["is this"])
    with pytest.raises(ValueError, match="stop_tokens: '' is 0 tokens"):
        tokenizer_lib.load(folder, stop=[""])


def test_no_stop_at_all(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="names no end token"):
        tokenizer_lib.load(tmp_path)
    assert tokenizer_lib.load(tmp_path, stop=["a"]).stop_ids == (0,)


def test_no_tokenizer_in_the_folder(tmp_path):
    (tmp_path / "tokenizer.json.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"neither tokenizer.json .* unpacked"):
        tokenizer_lib.load(tmp_path)


def test_save_copies_the_files(tmp_path):
    source = write(tmp_path / "in", eos_token="<eos>", pad_token="<pad>")
    loaded, out = tokenizer_lib.load(source), tmp_path / "out"
    out.mkdir()
    loaded.save(out)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in source.iterdir()
    }
    again = tokenizer_lib.load(out)
    assert again.stop_ids == loaded.stop_ids
    assert again.encode_prompt("what") == loaded.encode_prompt("what")
    shutil.rmtree(source)
    with pytest.raises(ValueError, match="files are gone from"):
        loaded.save(out)


def test_save_of_a_tokenizer_built_in_memory(tmp_path, chat):
    built = tokenizer_lib.Tokenizer(chat.backend, chat.stop_ids, chat.pad_id)
    (tmp_path / "out").mkdir()
    built.save(tmp_path / "out")
    again = tokenizer_lib.load(tmp_path / "out")
    assert again.encode_prompt("what is") == chat.encode_prompt("what is")
    assert again.stop_ids == chat.stop_ids


def test_imports_no_jax():
    code = "import sys, hapo_jax.model.tokenizer; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


# --- the real tokenizers ------------------------------------------------------------


def real_folder(tmp_path, name, *, template=None, **tokenizer_config):
    """A folder as on the hub, from the stored parts."""
    source = MODELS / f"{name}_tokenizer"
    if not source.is_dir():
        pytest.skip(f"no {source}; set HAPO_DATA_DIR")
    packed = source / "tokenizer.json.gz"
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    for file in ("tokenizer_config.json", "generation_config.json"):
        if (source / file).is_file():
            shutil.copyfile(source / file, tmp_path / file)
    if template:
        shutil.copyfile(source / template, tmp_path / "chat_template.jinja")
    if tokenizer_config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return tmp_path, source


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3", {}),
        ("llama3", {"eos_token": "<|eot_id|>"}),
        ("gpt2", {"eos_token": "<|endoftext|>"}),
    ],
)
def test_real_ids(tmp_path, name, options):
    folder, source = real_folder(tmp_path, name, **options)
    tokenizer = tokenizer_lib.load(folder)
    lines = (source / "golden_ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 100
    for line in map(json.loads, lines):
        assert tokenizer.encode(line["text"]) == line["ids"], line["text"]
        if name == "gpt2":  # the others normalise, or drop what is special
            assert tokenizer.decode(line["ids"], keep_special=True) == line["text"]


def test_real_qwen3_chat(tmp_path):
    folder, _ = real_folder(tmp_path, "qwen3", template="chat_template.jinja")
    tokenizer = tokenizer_lib.load(folder)
    assert tokenizer.stop_ids == (151645, 151643)  # <|im_end|>, <|endoftext|>
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (151643, 151669)
    opening = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer.encode_prompt("Hi")
    assert tokenizer.decode(prompt, keep_special=True) == opening
    assert prompt[0] == 151644
    quiet = tokenizer.encode_prompt("Hi", template_options={"enable_thinking": False})
    text = tokenizer.decode(quiet, keep_special=True)
    assert text == opening + "<think>\n\n</think>\n\n"


def test_real_llama3_chat(tmp_path):
    folder, _ = real_folder(
        tmp_path,
        "llama3",
        template="chat_template_llama3.1.jinja",
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
    )
    tokenizer = tokenizer_lib.load(folder)
    assert tokenizer.stop_ids == (128001, 128009)  # <|end_of_text|>, <|eot_id|>
    assert tokenizer.pad_id == 128001
    prompt = tokenizer.encode_prompt("Hi")
    assert prompt.count(128000) == 1 == prompt.index(128000) + 1
    end = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(prompt, keep_special=True).endswith(end)
    plain = tokenizer.encode_prompt("Hi", chat_template="plain")
    assert plain == [128000, *tokenizer.encode("Hi")]

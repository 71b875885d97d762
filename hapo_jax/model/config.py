"""The shape of a policy, read from a Hugging Face `config.json`.

`ModelConfig.from_hf` is the only place that knows Hugging Face's field names (`rope.py`
those of rotary positions), and `FAMILIES` the only one that knows how model families
differ; `transformer.py` sees sizes and switches. docs/models.md adds a family.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from hapo_jax.model import folder, rope
from hapo_jax.system.errors import Refused
from hapo_jax.system.user_files import Fields, short


class Family(NamedTuple):
    """What a `model_type` implies and `config.json` does not say.

    Attributes:
      architecture: the class of `transformers` that reads our exports.
      qkv_bias: whether queries, keys and values have a bias, whatever the file says.
      qk_norm: whether queries and keys are normalised, head by head.
      window: the number of tokens that one sees if the file does not say, or None where
        all see all before them. Windows are refused: attention here has none.
    """

    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False
    window: int | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", window=4096),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True),
}
# Beyond any model; so that a digit too many is refused, and does not take for ever.
_MOST_SIZE = 2**24
_MOST_LAYERS = 10_000


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a dense decoder. Lengths in tokens.

    `unused_ids` are ranges (first, behind the last) of ids that embeddings have room
    for and the tokenizer does not have. The policy gives them probability 0: nobody
    could read them, so they must be neither drawn nor reinforced.
    """

    model_type: str
    vocab_size: int  # V
    d_model: int  # D
    d_ff: int  # F
    num_layers: int  # L
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # C
    max_positions: int
    rms_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: rope.Scaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    init_std: float = 0.02
    unused_ids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise Refused(
                f"num_attention_heads={self.num_heads} must be a multiple of "
                f"num_key_value_heads={self.num_kv_heads}; check config.json."
            )
        if self.head_dim % 2:
            raise Refused(
                f"head_dim={self.head_dim} must be even, since rotary embedding "
                "turns pairs of channels; check config.json."
            )

    @classmethod
    def from_hf(cls, hf: dict[str, Any], where: str = "config.json") -> "ModelConfig":
        """Reads the fields of a Hugging Face `config.json`.

        Args:
          hf: the file's content.
          where: what messages call it.

        Raises:
          Refused: an unknown `model_type`, a missing field, one that is not of its
            type, or a feature that this decoder does not have (named with its value).
        """
        fields = Fields(hf, where)
        _refuse_other_models(fields)
        fields.require(*_REQUIRED, remedy="copy the file from the original model")
        _refuse_unsupported(fields)
        theta, scaling = rope.read(fields)
        family = FAMILIES[fields["model_type"]]
        heads = fields.whole("num_attention_heads", most=_MOST_SIZE)
        width = fields.whole("hidden_size", most=_MOST_SIZE)
        return cls(
            model_type=fields["model_type"],
            vocab_size=fields.whole("vocab_size", most=_MOST_SIZE),
            d_model=width,
            d_ff=fields.whole("intermediate_size", most=_MOST_SIZE),
            num_layers=fields.whole("num_hidden_layers", most=_MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=fields.whole("num_key_value_heads", heads, most=_MOST_SIZE),
            head_dim=fields.whole("head_dim", width // heads, most=_MOST_SIZE),
            max_positions=rope.longest(
                fields.whole("max_position_embeddings", most=2**31 - 1), scaling
            ),
            rms_eps=fields.number("rms_norm_eps", above=0, below=1),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            init_std=fields.number("initializer_range", 0.02, least=0),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of a model that came from none.

        Written in the spelling that transformers 4 and 5 both read (`rope_theta` with
        `rope_scaling`). `from_hf` of the result is this config, unless it mixes
        features of several families.
        """
        family = FAMILIES[self.model_type]
        return {
            "architectures": [family.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ff,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_eps,
            **rope.write(self.rope_theta, self.rope_scaling),
            "tie_word_embeddings": self.tie_embeddings,
            "initializer_range": self.init_std,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "use_cache": True,
            **({"sliding_window": None} if family.window else {}),
        }


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def _refuse_other_models(fields: Fields) -> None:
    """Raises on what is no dense decoder of the families here, and says what it is."""
    model_type = fields.text("model_type", None)
    for key in _QUANTISED:
        if said := fields.get(key):
            method = said.get("quant_method") if isinstance(said, dict) else None
            raise Refused(
                f"{fields.where}: {key} says that the weights are quantised "
                f"({short(method or said)}), and they cannot be trained; give the "
                "folder of the original model in bfloat16, or dequantise it and remove "
                f"{key}."
            )
    for key, what in _OTHER_MODELS.items():
        if fields.get(key):
            raise Refused(
                f"{fields.where}: {key}={short(fields[key])} is of {what}, which this "
                f"package does not have (model_type={model_type!r}); it reads "
                f"{', '.join(FAMILIES)}, dense decoders of text."
            )
    if model_type not in FAMILIES:
        raise Refused(
            f"{fields.where}: model_type={model_type!r} is not supported; this package "
            f"reads {', '.join(FAMILIES)} (dense decoders)."
        )
    known = FAMILIES[model_type].architecture
    names = fields.get("architectures", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        fields.refuse("architectures", f"must be [{known!r}]")
    for name in names:
        purpose = name.partition("For")[2]
        if purpose and not purpose.startswith("CausalLM"):
            raise Refused(
                f"{fields.where}: architectures={short(names)} is made for "
                f"{purpose!r} (a classifier or reward model, perhaps) and not for "
                "writing text; give a folder of a model with a language head, "
                f"{known}."
            )


# As transformers, compressed-tensors of old and MLX say it.
_QUANTISED = ("quantization_config", "compression_config", "quantization")
# Fields by which a model says what it is, whatever its model_type.
_OTHER_MODELS = {
    "vision_config": "a multimodal model",
    "audio_config": "a multimodal model",
    "text_config": "a multimodal model",
    "thinker_config": "a multimodal model",
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "moe_intermediate_size": "a mixture of experts",
    "is_encoder_decoder": "an encoder with a decoder",
}


def _refuse_unsupported(fields: Fields) -> None:
    """Raises on settings that would silently compute something else."""
    if fields.text("hidden_act", "silu") != "silu":
        fields.refuse("hidden_act", "is not supported; only 'silu' is")
    family = FAMILIES[fields["model_type"]]
    if family.window and "sliding_window" not in fields.nulls:
        raise Refused(
            f"{fields.where}: sliding_window="
            f"{short(fields.get('sliding_window', family.window))} is not supported; "
            "set it to null if your sequences are no longer than that."
        )
    if fields.flag("use_sliding_window", False):
        fields.refuse(
            "use_sliding_window",
            "is not supported; set it to false if your sequences are shorter than the "
            "window",
        )
    kinds = fields.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        fields.refuse("layer_types", "is not supported; all must be 'full_attention'")
    if fields.flag("mlp_bias", False):
        fields.refuse("mlp_bias", "is not supported")
    if fields.flag("attention_bias", False) and not family.qkv_bias:
        fields.refuse(
            "attention_bias",
            f"is not supported for model_type={fields['model_type']!r} (it would add "
            "an output bias)",
        )
    if fields.text("transformers_weights", folder.SINGLE_FILE) != folder.SINGLE_FILE:
        fields.refuse(
            "transformers_weights",
            f"is another file than {folder.SINGLE_FILE}, which is read here; rename it "
            "and leave the field out",
        )
    # Read by nobody here, and checked since exports pass them on.
    for key in ("bos_token_id", "pad_token_id"):
        fields.whole(key, None, least=-1)

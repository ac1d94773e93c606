"""Model architectures: the facts of a Hugging Face ``config.json`` that a serving simulation needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator, model_validator

from astra_sim.input_error import InputError, read_json_object, validated

DENSE_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures of which every layer is known."""
MOE_MODEL_TYPES = ("mixtral", "phimoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")
"""Architectures whose MLP is a router and routed experts, in every block or in some."""
MLA_MODEL_TYPES = ("deepseek_v2", "deepseek_v3")
"""Those with multi-head latent attention (DeepSeek-V2, 2024)."""
_WINDOW_BY_SWITCH = ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe")
_MLA_WIDTHS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")

PROJECT_MODEL_DIR = Path(__file__).resolve().parent.parent / "model_config"
"""The models that come with the project."""


class ModelConfig(BaseModel):
    """A decoder-only transformer, in the words of a Hugging Face ``config.json``; unknown keys are ignored.

    >>> tiny = ModelConfig(name="tiny", model_type="llama", hidden_size=64, intermediate_size=128,
    ...     num_hidden_layers=2, num_attention_heads=4, vocab_size=256, max_position_embeddings=512)
    >>> tiny.head_dim, tiny.num_key_value_heads, tiny.is_moe
    (16, 4, False)
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    name: str
    model_type: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    """K and V heads (grouped-query attention); default: as many as attention heads. With latent attention 1, whatever
    the file says: all heads read the same cached vector."""
    head_dim: PositiveInt
    """Elements of one head; default: ``hidden_size / num_attention_heads``. With latent attention those of a query or
    key, ``qk_nope_head_dim + qk_rope_head_dim``."""
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """Biases on the q, k, v (and, except for Qwen2, o) projections; Qwen2 always has them."""
    mlp_bias: bool = False
    lm_head_bias: bool = False
    num_experts: NonNegativeInt = 0
    """Routed experts a layer (``num_local_experts`` or ``n_routed_experts`` in some files); 0 means a dense model."""
    num_experts_per_tok: NonNegativeInt = 0
    moe_intermediate_size: NonNegativeInt = 0
    """Width of one expert; Mixtral and PhiMoE files keep it in ``intermediate_size``."""
    n_shared_experts: NonNegativeInt = 0
    """Experts of ``moe_intermediate_size`` that every token goes to, besides the routed ones (DeepSeek)."""
    shared_expert_intermediate_size: NonNegativeInt = 0
    """Width of the one shared expert of Qwen2-MoE, which has a gate of its own."""
    first_k_dense_replace: NonNegativeInt = 0
    moe_layer_freq: PositiveInt = 1
    decoder_sparse_step: PositiveInt = 1
    mlp_only_layers: tuple[NonNegativeInt, ...] = ()
    """The last four say which blocks have experts, see :meth:`has_experts`."""
    sliding_window: PositiveInt | None = None
    """Latest tokens that a query attends to, its own included; None: all of them."""
    kv_lora_rank: NonNegativeInt = 0
    """Elements of the compressed K and V of a token; 0: the model has no latent attention."""
    q_lora_rank: NonNegativeInt = 0
    """Elements of the compressed query; 0: it is projected in one step."""
    qk_nope_head_dim: NonNegativeInt = 0
    qk_rope_head_dim: NonNegativeInt = 0
    v_head_dim: NonNegativeInt = 0
    """Elements of a value; 0: ``head_dim``."""

    @property
    def is_moe(self) -> bool:
        """Whether the MLP is a set of routed experts."""
        return self.num_experts > 0

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent attention, whose cache has one compressed vector a token."""
        return self.kv_lora_rank > 0

    @property
    def kv_head_elements(self) -> int:
        """Cached elements of one token in one K/V head: key and value, or the latent vector and its rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim if self.is_mla else 2 * self.head_dim

    @property
    def value_dim(self) -> int:
        """Elements of one value."""
        return self.v_head_dim if self.is_mla else self.head_dim

    @property
    def shared_expert_width(self) -> int:
        """Width of all shared experts of a block together, which are computed as one; 0: there are none."""
        return self.n_shared_experts * self.moe_intermediate_size or self.shared_expert_intermediate_size

    def has_experts(self, block: int) -> bool:
        """Whether a block has a router and experts in place of a dense MLP, as the Hugging Face classes decide."""
        return (
            self.is_moe
            and block >= self.first_k_dense_replace
            and block % self.moe_layer_freq == 0
            and (block + 1) % self.decoder_sparse_step == 0
            and block not in self.mlp_only_layers
        )

    @property
    def expert_blocks(self) -> int:
        """Blocks that have experts."""
        return sum(map(self.has_experts, range(self.num_hidden_layers)))

    @property
    def has_qk_norm(self) -> bool:
        """Whether q and k heads are normalised before rope (the Qwen3 family)."""
        return self.model_type in ("qwen3", "qwen3_moe")

    @field_validator("model_type")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value not in DENSE_MODEL_TYPES + MOE_MODEL_TYPES:
            raise ValueError(
                f"{value!r} is not a supported architecture; dense: {', '.join(DENSE_MODEL_TYPES)}; "
                f"mixture of experts: {', '.join(MOE_MODEL_TYPES)}"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        """Apply the defaults of the Hugging Face configuration classes (absent and null mean the same)."""
        if not isinstance(data, dict):
            return data
        facts = {key: value for key, value in data.items() if value is not None}
        if facts.get("model_type") in _WINDOW_BY_SWITCH and not facts.get("use_sliding_window"):
            facts.pop("sliding_window", None)
        facts.setdefault("num_experts", facts.get("num_local_experts", facts.get("n_routed_experts", 0)))
        heads, hidden = facts.get("num_attention_heads"), facts.get("hidden_size")
        if isinstance(heads, int):
            facts.setdefault("num_key_value_heads", heads)
        if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            facts.setdefault("head_dim", hidden // heads)
        if facts.get("model_type") in MLA_MODEL_TYPES:
            facts["num_key_value_heads"] = 1
            query_parts = [facts.get(name) for name in ("qk_nope_head_dim", "qk_rope_head_dim")]
            facts["head_dim"] = sum(part for part in query_parts if isinstance(part, int)) or 1
        in_intermediate_size = facts.get("model_type") in ("mixtral", "phimoe")
        if facts["num_experts"] and in_intermediate_size and "intermediate_size" in facts:
            facts.setdefault("moe_intermediate_size", facts["intermediate_size"])
        return facts

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads = {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.is_moe != (self.model_type in MOE_MODEL_TYPES):
            raise ValueError(f"model_type {self.model_type!r} does not fit num_experts = {self.num_experts}")
        if self.is_moe and not self.moe_intermediate_size:
            raise ValueError("moe_intermediate_size is missing: the width of one expert")
        if self.is_moe and not self.expert_blocks:
            raise ValueError(
                f"none of num_hidden_layers = {self.num_hidden_layers} blocks has experts, by first_k_dense_replace = "
                f"{self.first_k_dense_replace}, moe_layer_freq = {self.moe_layer_freq}, decoder_sparse_step = "
                f"{self.decoder_sparse_step} and mlp_only_layers = {list(self.mlp_only_layers)}"
            )
        if self.sliding_window is not None and self.model_type in _WINDOW_BY_SWITCH:
            raise ValueError("use_sliding_window = true: windows in some layers only are not supported yet")
        missing = [name for name in _MLA_WIDTHS if not getattr(self, name)]
        if self.model_type in MLA_MODEL_TYPES and missing:
            raise ValueError(f"{missing[0]} is missing: a width of latent attention")
        if self.is_moe and not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok = {self.num_experts_per_tok} must be between 1 and "
                f"num_experts = {self.num_experts}"
            )
        return self


def default_search_dirs() -> tuple[Path, ...]:
    """Folders of model files: ``model_config/`` of the current directory, then the project's."""
    return (Path.cwd() / "model_config", PROJECT_MODEL_DIR)


def load_model_config(name_or_path: str | Path, search_dirs: Sequence[Path] | None = None) -> ModelConfig:
    """Load a model by name (``meta-llama/Llama-3.1-8B``) or from a ``config.json`` or a folder with one.

    A name is looked up as ``{search_dir}/{name}.json``, first match wins; ``search_dirs`` defaults to
    :func:`default_search_dirs`.
    """
    dirs = default_search_dirs() if search_dirs is None else tuple(search_dirs)
    name = str(name_or_path)
    for folder in dirs:
        file = folder / f"{name}.json"
        if not Path(name).is_absolute() and file.is_file():
            return _read(file, name)
    path = Path(name_or_path).expanduser()
    if (path / "config.json").is_file():
        return _read(path / "config.json", None)
    if path.is_file():
        return _read(path, None)
    known = ", ".join(known_models(dirs)) or "none"
    raise InputError(
        "", "model_name", f"{name!r} is unknown; known models: {known}; or give a path to a config.json"
    )


def known_models(search_dirs: Sequence[Path] | None = None) -> list[str]:
    """Names that :func:`load_model_config` finds, sorted."""
    dirs = default_search_dirs() if search_dirs is None else search_dirs
    return sorted({name for folder in dirs for name in _names_in(folder)})


def _names_in(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.json"):
        yield file.relative_to(folder).with_suffix("").as_posix()


def _read(file: Path, name: str | None) -> ModelConfig:
    data = read_json_object(file)
    return validated(ModelConfig, {**data, "name": name or _name_of(file, data)}, file)


def _name_of(file: Path, data: dict[str, Any]) -> str:
    """Name a model given by path, so that tables of the same model are found.

    ``.../model_config/org/model.json`` is ``org/model``; a ``config.json`` carries its name
    (``name`` or ``_name_or_path``) or gets that of its folder.
    """
    parts = file.resolve().with_suffix("").parts
    if "model_config" in parts and file.name != "config.json":
        start = len(parts) - parts[::-1].index("model_config")
        return "/".join(parts[start:])
    given = data.get("name") or data.get("_name_or_path")
    return str(given or (file.resolve().parent.name if file.name == "config.json" else file.stem))

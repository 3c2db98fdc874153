"""World sizes that a model can be cut for: whole heads, and whole groups of packed columns."""

from neoxlib.errors import SettingsError, ShardError
from neoxlib.model.config import ModelConfig
from neoxlib.model.quant import SCHEMES, scheme_name


def legal_world_sizes(config: ModelConfig, quant: str | None = None) -> list[int]:
    """World sizes that divide `num_attention_heads`, and the scheme's groups of columns.

    Raises SettingsError for an unknown `quant`, or one whose groups do not fill the model's
    columns.
    """
    heads = config.num_attention_heads
    columns = _columns(config)
    group = SCHEMES[quant].group if scheme_name(quant) else 0
    if wrong := [
        f"{name} has {width}" for name, width in columns.items() if group and width % group
    ]:
        raise SettingsError(
            f"quant {quant!r} takes columns in groups of {group}, but {', '.join(wrong)}; "
            "use int8, or leave quant out"
        )
    runs = [heads, *(width // group for width in columns.values() if group)]
    return [
        n
        for n in range(1, heads + 1)
        if not any(run % n for run in runs) and n <= config.vocab_size
    ]


def _columns(config: ModelConfig) -> dict[str, int]:
    """Columns of the packed matrices; row-parallel layers cut theirs over the ranks."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    return {
        "attention.query_key_value.weight": hidden,
        "attention.dense.weight": hidden,
        "mlp.dense_h_to_4h.weight": hidden,
        "mlp.dense_4h_to_h.weight": inner,
    }


def check_world_size(config: ModelConfig, world_size: int, quant: str | None = None) -> None:
    """Raise ShardError, naming the legal sizes, if a head or a group of columns would be cut."""
    legal = legal_world_sizes(config, quant)
    if world_size in legal:
        return
    what = f"{config.num_attention_heads} attention heads"
    if world_size in legal_world_sizes(config):
        widths = f"{config.hidden_size} and {config.intermediate_size} columns"
        what = f"{widths} in the {quant} scheme's groups of {SCHEMES[quant].group}"
    sizes = ", ".join(map(str, legal))
    raise ShardError(f"{what} cannot be cut over {world_size} ranks; world_size may be {sizes}")

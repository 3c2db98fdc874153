"""The resolved parameters of a run, and how values are shown to a reader."""

from types import SimpleNamespace
from typing import Any

from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.machine.environment import without_home
from neoxlib.workbook import parameter_table, parameters
from neoxlib.workbook.table import Table

SAMPLING = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "skip_special_tokens",
    "seed",
)


class Params(SimpleNamespace):
    """The resolved parameters as attributes, shown as a table with their meanings."""

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of `generate`, as its keyword arguments."""
        return {name: getattr(self, name) for name in SAMPLING}

    @property
    def largest_batch(self) -> int:
        """The largest batch size of the cases."""
        return max(self.batch_sizes or [self.batch_size])

    def _table(self) -> Table:
        rows = []
        for name, value in vars(self).items():
            param = parameter_table.PARAMETERS[name]
            default = parameters.resolve(name, param, param.default)
            source = "default" if value == default else "given"
            rows.append((name, shown(value), source, param.help))
        return Table(("name", "value", "source", "meaning"), rows)

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def __repr__(self) -> str:
        return repr(self._table())


def shown(value: Any) -> str:
    """Return a value for a reader: shipped folders by name, paths without the home folder."""
    shipped = {str(MODEL_DIR): "shipped model", str(EXAM_DIR): "shipped exam"}
    return "none" if value is None else shipped.get(str(value)) or without_home(str(value))

"""Which batch a page shows: the address says it, so that a link leads to what its sender saw."""

from typing import NamedTuple

from nelbo.flows.dashboard.tables import Batch, Tables

#: Most batches to choose from; older ones are linked on the page Home.
_SHOWN = 200

_NEWEST = """
    SELECT model_id, batch_id FROM batches
    LEFT JOIN (
        SELECT model_id, batch_id, max(started_at_utc) AS scored FROM runs WHERE command = 'score' GROUP BY ALL
    ) USING (model_id, batch_id)
    ORDER BY scored DESC NULLS LAST, batch_id LIMIT ?
"""


class Choice(NamedTuple):
    """The batch of a page, and those that a visitor may choose instead, the newest first.

    batch: None where the workspace has no batch.
    is_missing: whether the address names a batch that is not in the workspace.
    """

    batch: Batch | None
    others: list[Batch]
    is_missing: bool = False

    @property
    def has_models(self) -> bool:
        """Whether the batches are of several models, so that each is named with its model."""
        return len({model_id for model_id, _ in self.others}) > 1


def choose(tables: Tables, model: str, batch: str, chosen: str = "") -> Choice:
    """The batch that an address names, or else the newest.

    Args:
        model: empty for any.
        batch: empty for the newest.
        chosen: a batch with its model, as the list of batches sends it: ``MODEL BATCH``.
    """
    if chosen:
        model, _, batch = chosen.partition(" ")
    others = newest(tables, _SHOWN)
    asked = newest(tables, 1, model or None, batch) if batch else []
    found = next(iter(asked or others), None)
    return Choice(found, [*others, *(one for one in asked if one not in others)], bool(batch) and not asked)


def newest(tables: Tables, n: int, model: str | None = None, batch: str | None = None) -> list[Batch]:
    """The `n` batches that were scored last, of a model and of a name, if these are given."""
    return [(row["model_id"], row["batch_id"]) for row in tables.records(_NEWEST, [n], [(model, batch)])]

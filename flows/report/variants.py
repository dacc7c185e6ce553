"""Variants of the product in words and numbers, for an image and for a batch."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def named(row: Mapping[str, Any]) -> str | None:
    """What a row of scores says of its variant; None for a model without variants.

    >>> named({"variant": "left", "variant_z": 0.0}), named({"variant": "left", "variant_z": 7.1})
    ('variant left', 'no known variant (the nearest is left)')
    """
    name, beyond = row["variant"], row["variant_z"]
    if not isinstance(name, str):
        return None
    return f"no known variant (the nearest is {name})" if beyond > 0 else f"variant {name}"


def count(table: pa.Table) -> list[dict[str, Any]]:
    """Count the scored and the flagged images of each variant in a batch; empty where there is one variant.

    Args:
        table: rows of scores with ``variant`` and ``verdict``.

    >>> count(pa.table({"variant": ["a", "a", None], "verdict": ["normal", "anomalous", "not_scored"]}))
    [{'variant': 'a', 'n': 2, 'anomalous': 1, 'review': 0}]
    """
    rows = table.select(["variant", "verdict"]).to_pandas().dropna(subset="variant")
    flagged = {word: rows["verdict"] == word for word in ("anomalous", "review")}
    counted = rows[["variant"]].assign(n=1, **flagged).groupby("variant", as_index=False, observed=True).sum()
    return counted.astype({"variant": str}).sort_values("variant").to_dict("records")

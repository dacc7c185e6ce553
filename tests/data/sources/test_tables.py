"""Tables written by other programs, with nulls and types of every kind."""

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nelbo.data import InputError, ingest

PATHS = [f"part_{i}.png" for i in range(4)]
LABELS = [0, 1, -1, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in PATHS:
        Image.new("L", (20, 10), 7).save(tmp_path / name)
    return tmp_path


def labels_of(source: Path) -> list[int]:
    table = ingest(source).table
    assert table["relative_path"].to_pylist() == PATHS
    found: list[int] = table["label"].to_pylist()
    return found


@pytest.mark.parametrize(
    "dtype", ["Int8", "UInt16", "Float64", "float64", "category", "boolean", "string", "object", "int64[pyarrow]"]
)
def test_nullable_columns_of_pandas_are_read(dtype: str, folder: Path) -> None:
    words = {"boolean": [False, True, None, False], "string": ["0", "1", None, "0"]}.get(dtype, [0, 1, None, 0])
    table = pd.DataFrame({"path": pd.array(PATHS, "string"), "label": pd.Series(words, dtype=dtype)})
    table["split"] = pd.Categorical(["test", None, "train", "test"])
    table.to_parquet(folder / "list.parquet")
    assert labels_of(folder / "list.parquet") == LABELS
    assert ingest(folder / "list.parquet").table["split"].to_pylist() == ["test", None, "train", "test"]


TYPES = {
    "large_string": pa.array(["0", "1", None, "0"], pa.large_string()),
    "string_view": pa.array(["0", "1", None, "0"], pa.string_view()),
    "dictionary": pa.array(["0", "1", None, "0"]).dictionary_encode(),
    "numbers_in_a_dictionary": pa.array([0, 1, None, 0]).dictionary_encode(),
    "bool": pa.array([False, True, None, False]),
    "uint8": pa.array([0, 1, None, 0], pa.uint8()),
    "float32_nan": pa.array([0.0, 1.0, float("nan"), 0.0], pa.float32()),
    "half": pa.array([0, 1, None, 0], pa.int8()).cast(pa.float32()).cast(pa.float16()),
    "decimal": pa.array([0, 1, None, 0]).cast(pa.decimal128(19, 0)),
    "minus_one": pa.array([0, 1, -1, 0]),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("path_type", [pa.string(), pa.large_string(), pa.binary()])
def test_labels_of_any_type_of_arrow_are_read(kind: str, path_type: pa.DataType, folder: Path) -> None:
    table = pa.table({"path": pa.array(PATHS).cast(path_type), "label": TYPES[kind]})
    pq.write_table(table, folder / "list.parquet")
    assert labels_of(folder / "list.parquet") == LABELS


def test_a_table_of_polars_is_read(folder: Path) -> None:
    pl.DataFrame({"path": PATHS, "label": [False, True, None, False]}).write_parquet(folder / "list.parquet")
    assert labels_of(folder / "list.parquet") == LABELS


@pytest.mark.parametrize("words", ["True,False", "true,false", "TRUE,FALSE"])
def test_true_is_anomalous_in_csv_too(words: str, folder: Path) -> None:
    true, false = words.split(",")
    lines = [f"{name},{word}" for name, word in zip(PATHS, [false, true, "", false], strict=True)]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(lines))
    assert labels_of(folder / "list.csv") == LABELS


@pytest.mark.parametrize("missing", [None, pd.NA, float("nan")])
def test_a_path_that_is_null_is_refused(missing: object, folder: Path) -> None:
    pd.DataFrame({"path": ["part_0.png", missing, "part_1.png", missing]}).to_parquet(folder / "list.parquet")
    with pytest.raises(InputError, match=r"2 rows have no path: 2, 4\. Fill in the column 'path'"):
        ingest(folder / "list.parquet")


@pytest.mark.parametrize("label", [0.5, 2, "bad"])
def test_a_bad_label_is_refused(label: object, folder: Path) -> None:
    pd.DataFrame({"path": ["part_0.png"], "label": [label]}).to_parquet(folder / "list.parquet")
    with pytest.raises(InputError, match="1 values are not labels"):
        ingest(folder / "list.parquet")


def test_a_path_through_a_link_within_the_folder_is_that_of_the_file(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "part_0.png").rename(folder / "real" / "a.png")
    (folder / "link").symlink_to("real")
    (folder / "list.csv").write_text("path,label\nlink/a.png,1\n")
    table = ingest(folder / "list.csv").table
    assert table.select(["relative_path", "label", "reason"]).to_pylist() == [
        {"relative_path": "real/a.png", "label": 1, "reason": None}
    ]

"""Credentials in URLs are refused in every disguise; plain URLs and other text are accepted."""

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from nelbo.data import HARMLESS, InputError, check_url, check_urls, ingest, open_place
from nelbo.data.sources.roots import open_file_system, open_root

SECRET = "s3cr3t"  # noqa: S105

WITH_CREDENTIALS = [
    "s3://AKID:s3cr3t@bucket/in",
    "S3://AKID:s3cr3t@bucket/in",
    "s3://AKID:s3cr3t/with+slash@bucket/in",
    "s3://AKID:123/s3cr3t@bucket/in",
    "s3://AKID:s3cr3t%40bucket/in",
    "s3://AKID%3As3cr3t%2540bucket/in",
    "s3://AKID:s3cr3t\uff20bucket/in",
    " s3://AKID:s3cr3t@bucket/in",
    "s3:\n//AKID:s3cr3t@bucket/in",
    "s3:\\\\AKID:s3cr3t@bucket\\in",
    "http://user:s3cr3t@host/in",
    "HTTPS://user:s3cr3t@host:8443/in",
    "http://host\\@s3cr3t/in",
    "sftp://user@s3cr3t/in",
    "ftp://s3cr3t@host/in",
    "https://bucket.host/a.png?X-Amz-Signature=s3cr3t",
    "https://bucket.host/a.png%3FX-Amz-Signature=s3cr3t",
    "https://bucket.host/a.png%253FX-Amz-Signature=s3cr3t",
    "https://host/a.png#token=s3cr3t",
    "https://host/a.png;token=s3cr3t",
    "az://container/a.png?sv=2024&sig=s3cr3t",
    "simplecache::s3://AKID:s3cr3t@bucket/in",
    "zip://a.zip::https://user:s3cr3t@host/in.zip",
    "http://proxy/http://user:s3cr3t@host/in",
    "file://user:s3cr3t@host/in",
    "file:///in?token=s3cr3t",
]

PLAIN = [
    "s3://bucket/in",
    "s3://bucket/a@b.png",
    "s3://bucket/100%/a%20b+c=d&e.png",
    "s3://bucket/in/**/[ab]*.png",
    "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/in",
    "http://host:8080/in/a.png",
    "memory://é ü/in",
    "file:///in/a@b;c.png",
    "file:///in/a%3Fb%40c.png",
    "/in/a@b?c#d;e.png",
    "user@host",
    "in/?*.png",
    "a::b",
    "C:\\images",
    "",
]


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    for refusing in (check_url, open_place, open_root, open_file_system, ingest):
        # Functions that open a name take it for a local one without ://; the check of options is stricter.
        if refusing in (open_root, open_file_system) and "://" not in url:
            continue
        with pytest.raises(InputError, match="credentials come from the environment") as raised:
            refusing(url)  # type: ignore[operator]
        assert SECRET not in str(raised.value)
    with pytest.raises(InputError, match=r"^images: the URL") as raised:
        check_urls({"seed": 1, "images": [url]})
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("url", PLAIN)
def test_plain_urls_and_local_paths_are_accepted(url: str) -> None:
    check_url(url)
    check_url(f"workspace={url}")
    assert re.search(HARMLESS, url)


def test_the_pattern_for_schemas_refuses_the_same() -> None:
    # Only the check finds line breaks within a URL.
    assert [url for url in WITH_CREDENTIALS if re.search(HARMLESS, url)] == ["s3:\n//AKID:s3cr3t@bucket/in"]


@pytest.mark.parametrize(
    "hostile", ["a" * 10**6, ":" * 10**6, "://" * 10**6, "s3://" + "%25" * 10**6, "x" * 10**6 + "://@"]
)
def test_the_check_is_linear_on_hostile_text(hostile: str) -> None:
    """A quadratic check would exceed the test's time limit."""
    for text in (hostile, f"s3://b/{hostile}"):
        try:
            check_url(text)
        except InputError as error:
            assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.parametrize("url", [url for url in WITH_CREDENTIALS if "\n" not in url])
@pytest.mark.parametrize(("column", "kind"), [("path", "csv"), ("label", "parquet"), ("split", "csv")])
def test_a_manifest_with_credentials_is_refused_and_not_repeated(
    tmp_path: Path, url: str, column: str, kind: str
) -> None:
    table = pd.DataFrame({"path": ["a.png"], "label": ["0"], "split": ["train"]}).assign(**{column: url})
    source = tmp_path / f"images.{kind}"
    table.to_csv(source, index=False) if kind == "csv" else table.to_parquet(source)
    with pytest.raises(InputError, match=f"column {column}: .*credentials come from the environment") as raised:
        ingest(source)
    assert SECRET not in str(raised.value)


def test_a_local_manifest_may_hold_any_name(tmp_path: Path) -> None:
    names = ["a@b.png", "what?.png", "a#1;b.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"\x89PNG")
    Image.new("L", (8, 8)).save(tmp_path / "a@b.png")
    source = tmp_path / "images.csv"
    pd.DataFrame({"path": names}).to_csv(source, index=False)
    assert ingest(source).table["relative_path"].to_pylist() == sorted(names)

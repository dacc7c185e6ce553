"""Printed text: names and messages may come from anybody, and a terminal must show them, never obey them."""

import json
import logging

import pytest

from nelbo.flows.cli.output import LogFormatter, one_line, print_json, print_result, print_row
from nelbo.flows.workspace.errors import without_credentials

HOSTILE = "a\x1b]0;title\x07\x1b[2J\n\r\u202egnp.\u2028b\x9b31m\udcff é"


def is_harmless(line: str) -> bool:
    return line.isprintable() and line.encode() != b""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no answer: http://me:secret@host/bucket?token=secret", "no answer: http://host/bucket"),
        ("'s3://AKID:sec/ret@bucket/x' and s3://AKID:secret%40b, ok", "'s3://bucket/x' and s3://b, ok"),
        ("s3:\\\\AKID:secret@b\\x", "s3:\\\\b\\x"),
        ("simplecache::S3://AKID:secret@b/x", "simplecache::S3://b/x"),
        ("https://host/x#secret", "https://host/x"),
        ("tcp://host:8786 and s3://bucket/a@b.png stay", "tcp://host:8786 and s3://bucket/a@b.png stay"),
        ("a@b? c#d", "a@b? c#d"),
    ],
)
def test_messages_lose_credentials(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


@pytest.mark.parametrize(
    "hostile", ["a" * 10**6, "://" * 10**6, "x://" + "a" * 10**6, "x://" + "@" * 10**6, "%25" * 10**6]
)
def test_messages_lose_credentials_in_linear_time(hostile: str) -> None:
    """A quadratic algorithm would exceed the test's time limit."""
    assert len(without_credentials(hostile)) <= len(hostile)


def test_an_error_is_one_line_of_bounded_length() -> None:
    line = one_line(f"{HOSTILE} http://me:secret@host {'x' * 10**6} the remedy")
    assert is_harmless(line)
    assert len(line) < 2100
    assert "secret" not in line
    assert line.endswith("the remedy")


def test_logs_show_names_and_do_not_obey_them() -> None:
    record = logging.LogRecord("flows", logging.INFO, "", 0, "%s is gone", (HOSTILE,), None)
    assert is_harmless(LogFormatter().format(record))


def test_results_show_names_and_do_not_obey_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"images": HOSTILE, "n": 1})
    assert all(map(is_harmless, capsys.readouterr().out.splitlines()))
    print_json({"images": HOSTILE})
    (line,) = capsys.readouterr().out.splitlines()
    assert is_harmless(line)
    assert json.loads(line) == {"images": HOSTILE}


ROW = {"verdict": "anomalous", "anomaly_score": 96.0234, "p_value": 0.00826, "reason": None, "why": "One spot."}


def test_a_row_is_printed_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_row({**ROW, "relative_path": HOSTILE, "latency_ms": 51.7}, as_json=False)
    lost = {"verdict": "not_scored", "anomaly_score": None, "p_value": None, "reason": "truncated", "why": None}
    print_row({**lost, "relative_path": "b.png", "latency_ms": 9.2}, as_json=False)
    # A row without a verdict.
    print_row({**lost, "verdict": None, "reason": None, "relative_path": "c.png", "latency_ms": 9.2}, as_json=False)
    flagged, other, bare = capsys.readouterr().out.splitlines()
    assert is_harmless(flagged)
    assert flagged.startswith("anomalous   a\\x1b]0;title")
    assert flagged.endswith("é  score 96.02  p 0.0083  52 ms  One spot.")
    assert other == "not_scored  b.png  9 ms  truncated"
    assert bare == "scored      c.png  9 ms"


def test_a_row_is_printed_as_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    row = {**ROW, "relative_path": HOSTILE, "latency_ms": 51.7}
    print_row(row, as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert is_harmless(line)
    assert json.loads(line) == row

"""The plots: each says in its title what it shows, and on its axes in which unit."""

from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from nelbo.flows.dashboard.style import palette

#: How a batch compares with its band, in words, with the shape of its point.
WITHIN, ABOVE, BELOW, UNPROMISED = "within chance", "more than chance", "fewer than chance", "no promise"
_SHAPES = {WITHIN: "circle", ABOVE: "triangle-up", BELOW: "triangle-down", UNPROMISED: "diamond"}

_REVIEW = "review from"

_FONT = "Source Sans, sans-serif"


def scored_at(column: str) -> alt.X:
    """The axis of when something was scored: in UTC, wherever the browser is."""
    axis = alt.Axis(format="%d %b %H:%M", tickCount=6)
    return alt.X(f"{column}:T", title="scored (UTC)", scale=alt.Scale(type="utc"), axis=axis)


def show(chart: alt.Chart | alt.LayerChart, title: str, description: str, height: int = 260) -> None:
    """A plot below its title, with what it shows in words for those who do not see it."""
    colours = palette()
    grey = {"labelColor": colours.soft, "titleColor": colours.soft, "labelFontSize": 12, "titleFontWeight": "normal"}
    styled = (
        chart.properties(title=alt.TitleParams(title, anchor="start", color=colours.text, fontSize=15), height=height)
        .configure(background="transparent", font=_FONT)
        .configure_axis(
            **grey, titleFontSize=12, gridColor=colours.line, domainColor=colours.line, tickColor=colours.line
        )
        .configure_legend(labelColor=colours.text, labelFontSize=12, labelLimit=400, orient="top")
        .configure_view(stroke=None)
        .configure_range(category=[colours.batch, colours.normal, colours.mark])
    )
    st.altair_chart(styled, width="stretch", theme=None, alt=f"{title}. {description}")


def rates(batches: pd.DataFrame) -> Any:
    """Share of anomalous images in each batch, and the band of chance.

    Args:
        batches: ``batch_id``, ``scored`` (when), ``n_scored``, ``n_anomalous``; ``rate``, ``low``, ``high`` and
            ``expected`` in [0, 1]; ``chance`` in words.
    """
    colours = palette()
    share = alt.Axis(format=".1~%")
    found = [word for word in _SHAPES if word in set(batches["chance"])]
    colour_of = {WITHIN: colours.batch, ABOVE: colours.mark}
    base = alt.Chart(batches).encode(scored_at("scored"))
    # A bar for each batch: its size decides how far chance reaches. Many of them make a band.
    band = base.mark_rule(color=colours.normal, opacity=0.3, strokeWidth=6).encode(
        alt.Y("low:Q", title="anomalous, share of scored images", axis=share), alt.Y2("high:Q")
    )
    mean = base.mark_tick(color=colours.normal, width=6, thickness=2, orient="horizontal").encode(alt.Y("expected:Q"))
    points = base.mark_point(size=55, filled=True, opacity=1).encode(
        alt.Y("rate:Q"),
        alt.Color(
            "chance:N",
            title=None,
            scale=alt.Scale(domain=found, range=[colour_of.get(word, colours.normal) for word in found]),
        ),
        alt.Shape("chance:N", title=None, scale=alt.Scale(domain=found, range=[_SHAPES[word] for word in found])),
        tooltip=[
            alt.Tooltip("batch_id:N", title="batch"),
            alt.Tooltip("n_anomalous:Q", title="anomalous", format=","),
            alt.Tooltip("n_scored:Q", title="images scored", format=","),
            alt.Tooltip("rate:Q", title="share", format=".2%"),
            alt.Tooltip("low:Q", title="by chance from", format=".2%"),
            alt.Tooltip("high:Q", title="to", format=".2%"),
        ],
    )
    return alt.layer(band, mean, points)


def throughput(batches: pd.DataFrame) -> alt.Chart:
    """Images a second of each batch: ``scored`` (time), ``images_per_s``, ``batch_id``."""
    return (
        alt.Chart(batches)
        .mark_line(color=palette().batch, point=alt.OverlayMarkDef(color=palette().batch, size=30))
        .encode(
            scored_at("scored"),
            alt.Y("images_per_s:Q", title="images a second"),
            tooltip=[
                alt.Tooltip("batch_id:N", title="batch"),
                alt.Tooltip("images_per_s:Q", title="images a second", format=",.0f"),
            ],
        )
    )


def reasons(counts: pd.DataFrame) -> alt.Chart:
    """Files without a score: ``reason`` and ``n``."""
    return (
        alt.Chart(counts)
        .mark_bar(color=palette().batch)
        .encode(
            alt.X("n:Q", title="files", axis=alt.Axis(tickMinStep=1, format=",d")),
            alt.Y("reason:N", title=None, sort="-x"),
            tooltip=[alt.Tooltip("reason:N"), alt.Tooltip("n:Q", title="files", format=",")],
        )
    )


def scores(bins: pd.DataFrame, threshold: float | None, review: float | None, chosen: float, statistic: str) -> Any:
    """Histogram of a batch and outline of its calibration, with the threshold, the review band's lower end and a try.

    Args:
        bins: ``left`` and ``right``; ``batch`` and ``normal``, the shares in them; ``n``, images of the batch.
    """
    colours = palette()
    share = alt.Axis(format=".1~%")
    # The colours of a plot's categories come in this order, see `show`.
    words = ["this batch", "normal images of the calibration"]
    base = alt.Chart(bins)
    images = base.mark_bar(binSpacing=1).encode(
        alt.X("left:Q", title=f"anomaly score ({statistic})", bin="binned", axis=alt.Axis(format=",.4~g", tickCount=8)),
        alt.X2("right:Q"),
        alt.Y("batch:Q", title="share of the images", axis=share),
        alt.ColorDatum(words[0], title=None),
        tooltip=[
            alt.Tooltip("left:Q", title="from", format=",.4~g"),
            alt.Tooltip("right:Q", title="to", format=",.4~g"),
            alt.Tooltip("n:Q", title="images", format=","),
            alt.Tooltip("normal:Q", title="of the calibration", format=".2%"),
        ],
    )
    normal = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        alt.X("left:Q"), alt.Y("normal:Q"), alt.ColorDatum(words[1], title=None)
    )
    known = [
        (threshold, "threshold", colours.mark, [6, 4]),
        (review, _REVIEW, colours.mark, [2, 3]),
        (chosen, "what if", colours.text, [1, 0]),
    ]
    rules = [
        _rule(at, text, colour, dash, 16 * i) for i, (at, text, colour, dash) in enumerate(known) if at is not None
    ]
    return alt.layer(images, normal, *rules) if bins["normal"].notna().any() else alt.layer(images, *rules)


def _rule(at: float, text: str, colour: str, dash: list[int], y: int) -> Any:
    base = alt.Chart(pd.DataFrame({"at": [at]})).encode(alt.X("at:Q"))
    label = base.mark_text(
        # The band for review lies left of the threshold, and its words left of it, too.
        align="right" if text == _REVIEW else "left",
        dx=-5 if text == _REVIEW else 5,
        y=y,
        baseline="top",
        color=colour,
        fontSize=12,
    )
    return base.mark_rule(color=colour, strokeDash=dash, strokeWidth=2) + label.encode(text=alt.value(text))

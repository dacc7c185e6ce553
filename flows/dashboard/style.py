"""How the pages look: the theme as flags of Streamlit, what it leaves to CSS, and what is said of nothing."""

from html import escape
from typing import Any

import streamlit as st

from nelbo.flows.dashboard.literal import literal
from nelbo.flows.dashboard.palette import DARK, LIGHT, Palette
from nelbo.flows.workspace.layout import some

_CSS = """
/* Streamlit fades captions below the contrast that WCAG AA asks for. */
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] * { color: %(soft)s; opacity: 1; }
.said { font-size: 1.25rem; line-height: 1.4; margin: 0; overflow-wrap: anywhere; }
"""


def palette() -> Palette:
    """The colours of the theme that this visitor sees."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def apply_style() -> None:
    """Bring in the CSS, once a page."""
    st.html(f"<style>{_CSS % palette()._asdict()}</style>")


def say(sentence: str) -> None:
    """A sentence in large letters, as it is: names in it are no Markdown."""
    st.html(f'<p class="said">{escape(sentence)}</p>')


def nothing(said: str, command: str) -> None:
    """What is shown where there is nothing yet: a sentence, and the command that makes something."""
    st.info(said, icon=":material/info:")
    st.code(command, language="sh")


def warn_of(damaged: list[str]) -> None:
    """Name the files that cannot be read: pages show what the others hold."""
    if damaged:
        what = "A file cannot be read and is" if len(damaged) == 1 else f"{len(damaged):,} files cannot be read and are"
        text = f"{what} left out: {some(damaged)}. Restore from a copy, or score again."
        st.warning(literal(text), icon=":material/warning:")


def utc(heading: str) -> Any:
    """A column of times, in UTC wherever the browser is."""
    return st.column_config.DatetimeColumn(f"{heading} (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC")

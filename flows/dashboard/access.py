"""Who may see the dashboard: everybody who reaches it, or who knows the password if there is one."""

import hmac
import os
import threading
import time

import streamlit as st

from flows.settings import PASSWORD

_SECONDS_A_GUESS = 1.0


def is_admitted() -> bool:
    """Whether this visitor may see the pages."""
    return not os.environ.get(PASSWORD) or st.session_state.get("admitted", False)


def ask_password() -> None:
    """The form that admits a visitor."""
    st.title("nelbo", anchor=False)
    with st.form("password", border=False):
        given = st.text_input("Password", type="password", autocomplete="current-password")
        sent = st.form_submit_button("Enter")
    if sent:
        if _is_right(given):
            st.session_state["admitted"] = True
            st.rerun()
        st.error("This is not the password.")


@st.cache_resource(show_spinner=False)
def _turnstile() -> threading.Lock:
    return threading.Lock()


def _is_right(given: str) -> bool:
    """One guess at a time, and each takes a while, whoever makes it."""
    with _turnstile():
        time.sleep(_SECONDS_A_GUESS)
        return hmac.compare_digest(given.encode(), os.environ[PASSWORD].encode())

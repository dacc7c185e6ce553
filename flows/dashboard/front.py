"""What the web server runs: a door, and behind it the pages. Streamlit finds the app in this file by reading it."""

import os
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from nelbo.flows.dashboard.door import Door
from nelbo.flows.options.sources import PASSWORD

app = st.App(
    Path(__file__).with_name("pages") / "app.py", middleware=[Middleware(Door, password=os.environ.get(PASSWORD))]
)

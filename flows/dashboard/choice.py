"""Which batch a page shows: the address says it, so that a link leads to what its sender saw."""

import streamlit as st

from nelbo.flows.dashboard.links import page_at
from nelbo.flows.dashboard.style import nothing
from nelbo.flows.dashboard.tables import Batch, Tables

#: Of the batches to choose from; older ones have links.
_SHOWN = 500


def choose_batch(tables: Tables) -> Batch | None:
    """(model id, batch id) that the address names as ``?model=M&batch=B``, or that the visitor chooses.

    Without either it is the one chosen before, or the newest. None if there is none at all, which is said.
    """
    batches = _newest(tables)
    if not batches:
        nothing("No batch is scored yet in this workspace. Score one with:", "nelbo score DIR")
        return None
    asked = _asked(tables) or batches[0]
    if asked not in batches:
        batches.append(asked)
    several = len({model_id for model_id, _ in batches}) > 1
    # The address decides; a choice changes the address first.
    st.session_state["chosen batch"] = asked
    _name_in_address()
    st.session_state["batch"] = st.selectbox(
        "Batch, the newest first",
        batches,
        format_func=lambda batch: f"{batch[1]} · model {batch[0]}" if several else batch[1],
        key="chosen batch",
        on_change=_name_in_address,
    )
    return asked


def open_batch(batch: Batch) -> None:
    """Go to a batch's page; its address names the batch and can be kept."""
    st.switch_page(page_at("batch"), query_params=dict(zip(("model", "batch"), batch, strict=True)))


def _name_in_address() -> None:
    model_id, batch_id = st.session_state["chosen batch"]
    st.query_params.update(model=model_id, batch=batch_id)


def _asked(tables: Tables) -> Batch | None:
    """What the address names, or else was chosen before on this or another page; None if it is not there."""
    model_id, batch_id = st.query_params.get("model"), st.query_params.get("batch")
    if batch_id is None:
        model_id, batch_id = st.session_state.get("batch", (None, None))
    if batch_id is None:
        return None
    found = _newest(tables, model_id, batch_id)
    if not found:
        st.warning("The batch that was asked for is not in the workspace: it may have been pruned. This is the newest.")
    return found[0] if found else None


def _newest(tables: Tables, model_id: str | None = None, batch_id: str | None = None) -> list[Batch]:
    sql = """
        SELECT model_id, batch_id FROM batches
        LEFT JOIN (
            SELECT model_id, batch_id, max(started_at_utc) AS scored FROM runs WHERE command = 'score' GROUP BY ALL
        ) USING (model_id, batch_id)
        ORDER BY scored DESC NULLS LAST, batch_id LIMIT ?
    """
    return list(tables.query(sql, [_SHOWN], [(model_id, batch_id)]).itertuples(index=False, name=None))

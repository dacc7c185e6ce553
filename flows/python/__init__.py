"""The front door of Python: a workspace, its models, batches and scorers, with pandas inside; see `nelbo`."""

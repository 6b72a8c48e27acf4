"""The page. Only this package and app.py import gradio; `cells.py` and `panels.py` are plain functions that return HTML."""

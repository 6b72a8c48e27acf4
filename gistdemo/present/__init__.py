"""Values -> what people see: figures, HTML from templates, Markdown. Imports no gradio."""

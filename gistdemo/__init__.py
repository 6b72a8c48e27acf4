"""gistdemo: compare full, gist and truncated prompts side by side. Importing it reads no file and loads no model."""

__version__ = "0.1.0"

"""Lessons in a real JupyterLab, driven through Chromium."""

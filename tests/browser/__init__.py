"""Pages and JupyterLab in a real browser."""

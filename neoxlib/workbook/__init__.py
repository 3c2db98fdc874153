"""Run folders, parameters, headless runs, and the pages that are made of them."""

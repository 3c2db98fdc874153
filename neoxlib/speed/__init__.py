"""Measure, explain, plan and compare the speed of a model."""

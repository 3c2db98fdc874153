"""A run that remembers what it was told."""


class Notes:
    """Records the checks and metrics of a run."""

    def __init__(self):
        self.said = {}

    def check(self, name, passed, detail=""):
        self.said[name] = passed

    def save(self, name, table):
        return table

    def metrics(self, **values):
        self.said |= values

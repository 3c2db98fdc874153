"""The questions: which exams there are, and how a folder or archive of one is read."""

"""neoxlib beside what else one could use, on the same work in one run; and GPT-NeoX-20B's full shape on one machine."""

"""Real faults, injected into real processes: `make test-faults`. One file a kind, ROWS in each."""

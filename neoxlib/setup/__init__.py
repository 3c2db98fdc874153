"""What is missing on this machine, and the line that repairs it."""

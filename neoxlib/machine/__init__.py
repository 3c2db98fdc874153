"""What this machine is: chips, versions, limits, and the environment that ranks start with."""

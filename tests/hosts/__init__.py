"""More than one host, on one machine: hosts of our own making, and what is tried over them."""

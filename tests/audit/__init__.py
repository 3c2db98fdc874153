"""Known holes in the installed packages, and a bill of materials: `make audit`."""

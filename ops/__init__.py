"""What operators install, and what renders it: see README.md."""

"""The front door: command line, project files, starting and stopping things, wiring."""

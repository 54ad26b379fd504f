"""The analysis `sinks`."""

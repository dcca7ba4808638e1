"""Measuring: what a write costs on this machine, always beside the machine's own floor in the same run."""

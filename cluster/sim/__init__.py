"""The deterministic simulator: whole rings of real cores on virtual time, with faults that one seed decides."""

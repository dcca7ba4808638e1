"""The `pond` command: what a person types, in terms of `pond.client` and nothing below it."""

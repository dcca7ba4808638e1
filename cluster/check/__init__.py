"""Checkers: pure functions of what a run recorded, which say Ok, Illegal or Unknown."""

"""What can go wrong, in one vocabulary: the manifest of a run, and servers that lie."""

"""Where things are: GUIDs, prefix routing, publishing and locating objects, while nodes come and go (`node`)."""

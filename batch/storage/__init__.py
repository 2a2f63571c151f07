"""Local and remote folders behind one interface, `storage.Storage`. Imports nothing else of this project."""

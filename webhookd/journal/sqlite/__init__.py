"""What is SQLite's alone: the file and its log, the writer and the readers, copies, backup, restore."""

"""The families of problems: one a file, registered in `table`."""

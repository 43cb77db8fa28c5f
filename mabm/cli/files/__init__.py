"""Files that commands read and write: arrays, tables, labels, and checks of output paths."""

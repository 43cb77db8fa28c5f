"""Files that commands read and write: arrays, tables, labels, and where results may go."""

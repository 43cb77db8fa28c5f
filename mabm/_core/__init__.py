"""The ground floor: arguments and arrays, devices and files, the compiled ops. Imports no stage."""

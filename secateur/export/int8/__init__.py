"""The INT8 file: written with its pairs, run by the runtimes that people ship, and compared with the simulation."""

"""Devices: their choice, precision and memory, compiled methods, 8-bit integers."""

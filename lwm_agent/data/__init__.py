"""Trajectories on disk: their layout, readers and writer."""

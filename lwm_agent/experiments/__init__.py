"""Experiments put agents and the instruments of `lwm_agent.eval` together: evaluations, timings."""

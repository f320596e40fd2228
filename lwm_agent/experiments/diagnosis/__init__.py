"""`lwm-agent diagnose`: why an agent fails, by tests of its model and data, and the simulator in the model's place."""

"""The agent: receding-horizon planning with a world model, behind Stable-Baselines3's `predict`."""

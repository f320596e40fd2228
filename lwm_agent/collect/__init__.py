"""Recording of episodes under a scripted policy, a random one or an agent."""

"""Training: the loop for world models, and the trainings on the latents of a frozen encoder."""

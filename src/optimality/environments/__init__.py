"""What can only be sampled: environments in JAX, and Gymnasium both ways."""

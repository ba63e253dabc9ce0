"""Scripts that run under the Python of a peer's environment; `worker` is what they share."""

"""Counts what JAX compiles, for tests that changing a number compiles nothing."""

import contextlib

import jax


class Compilations:
    def __init__(self):
        self.count = 0


@contextlib.contextmanager
def counted_compilations():
    """Yields an object whose `count` is the number of programs handed to the compiler so far inside the block."""
    compilations = Compilations()

    def listen(event: str, duration: float, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.count += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

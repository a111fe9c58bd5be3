"""The command `python -m stan_jax.shapes`."""

from stan_jax import errors
from stan_jax.shapes import generate

with errors.as_messages():
    generate.main()

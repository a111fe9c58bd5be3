"""Optimizer of a training: learning rate over time, clipping, momentum, decay."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from stan_jax.errors import InputError
from stan_jax.model import parameters

NO_DECAY = ("scale", "bias", "upsample_bias", "gamma", "slope")


def schedule(
    *,
    peak_lr: float,
    warmup_steps: int,
    total_steps: int,
    decay: str,
    warmup_factor: float = 1 / 3,
    milestones: tuple[int, ...] = (),
    gamma: float = 0.1,
) -> optax.Schedule:
    """Return the learning rate of each update, the first one being number 0.

    It is the product of `peak_lr`, a warm-up and a decay.

    Args:
      peak_lr: the full rate.
      warmup_steps: the update from which on the warm-up is 1.
      total_steps: the update from which on the decay "cosine" is 0.
      decay: "steps" multiplies by `gamma` from each milestone on; "cosine" falls from
        the end of the warm-up on.
      warmup_factor: of update 0; the warm-up rises linearly from there.
      milestones: updates, rising.
      gamma: factor of each milestone.

    Raises: InputError for an unknown decay or steps out of order.
    Source: masktrack_spec.md section 7; the two factors multiply, as in mmcv.
    """
    _check_schedule(warmup_steps, total_steps, decay, milestones)
    warm_up = optax.constant_schedule(1.0)
    if warmup_steps:
        warm_up = optax.linear_schedule(warmup_factor, 1.0, warmup_steps)
    if decay == "steps":
        scales = {step: gamma ** milestones.count(step) for step in milestones}
        falling = optax.piecewise_constant_schedule(1.0, scales)
    else:
        falling = optax.join_schedules(
            [
                optax.constant_schedule(1.0),
                optax.cosine_decay_schedule(1.0, max(total_steps - warmup_steps, 1)),
            ],
            [warmup_steps],
        )

    def rate(count: jax.typing.ArrayLike) -> Float[Array, ""]:
        return jnp.asarray(peak_lr * warm_up(count) * falling(count), jnp.float32)

    return rate


def make(
    params: PyTree,
    *,
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    clip_norm: float | None,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    no_decay: tuple[str, ...] = NO_DECAY,
    frozen: Sequence[str] = (),
    gamma_factor: float = 1.0,
) -> optax.GradientTransformation:
    """Return the optimizer of `params`: clip, then SGD with momentum or AdamW.

    "sgd" is PyTorch's: the decay joins the gradient before the momentum, the rate is
    applied outside it. "adamw" decays apart from the moments.

    Args:
      params: only their structure matters.
      name: "sgd" or "adamw".
      learning_rate: a number, or a `schedule`.
      weight_decay: times a leaf, joins its gradient (sgd) or its update (adamw).
      clip_norm: bound of the norm over all gradients that are not frozen; None: off.
      momentum: of "sgd".
      betas: decay of both moments of "adamw".
      no_decay: last names of leaves without weight decay (A11: gamma, slope, norms).
      frozen: prefixes of paths, "backbone/layer1"; leaves below get a zero update,
        keep no state, and count in no norm.
      gamma_factor: of the learning rate of gamma.

    Raises: InputError for an unknown `name`, or a factor below 0.
    """
    if gamma_factor < 0:
        rule = f"must be at least 0, is {gamma_factor}"
        raise InputError("optim.gamma_factor", "", rule)
    paths = parameters.by_path(params)

    def by_leaf(of: Callable[[str], Any]) -> PyTree:
        return parameters.nested({path: of(path) for path in paths}, params)

    labels = by_leaf(
        lambda path: "frozen" if parameters.within(path, frozen) else "learned"
    )

    def of_learned(of: Callable[[str], Any]) -> PyTree:
        # Looked up by position inside `partition`, where frozen leaves are absent, so
        # it must be cut the same way.
        return jax.tree.map(
            lambda x, group: x if group == "learned" else optax.MaskedNode(),
            by_leaf(of),
            labels,
        )

    decayed = of_learned(lambda path: _last_name(path) not in no_decay)
    decay = optax.add_decayed_weights(weight_decay, mask=decayed)
    if name == "sgd":
        optimizer = optax.chain(decay, optax.trace(momentum))
    elif name == "adamw":
        optimizer = optax.chain(optax.scale_by_adam(*betas), decay)
    else:
        raise InputError("optim.name", "", f"must be sgd or adamw, not {name!r}")
    clip = (
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    )
    parts = [clip, optimizer, optax.scale_by_learning_rate(learning_rate)]
    if gamma_factor != 1:  # else the state has one part less, as it ever had
        factors = of_learned(lambda p: gamma_factor if _last_name(p) == "gamma" else 1)

        def scaled(updates: PyTree, _: PyTree) -> PyTree:
            return jax.tree.map(jnp.multiply, updates, factors)

        parts.append(optax.stateless(scaled))
    learned = optax.chain(*parts)
    return optax.partition({"learned": learned, "frozen": optax.set_to_zero()}, labels)


def build(
    params: PyTree,
    *,
    name: str,
    peak_lr: float,
    steps: int,
    warmup_steps: int,
    decay: str,
    milestones: tuple[int, ...],
    weight_decay: float,
    clip_norm: float,
    frozen: Sequence[str],
    gamma_factor: float = 1.0,
) -> optax.GradientTransformation:
    """Return the optimizer of a config's `optim` section, see `schedule` and `make`.

    frozen, gamma_factor: see `make`.
    """
    rate = schedule(
        peak_lr=peak_lr,
        warmup_steps=warmup_steps,
        total_steps=steps,
        decay=decay,
        milestones=tuple(milestones),
    )

    return make(
        params,
        name=name,
        learning_rate=rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        frozen=frozen,
        gamma_factor=gamma_factor,
    )


def _last_name(path: str) -> str:
    """The last part that is no number: "gamma" of "sta/gamma/0"."""
    return next((p for p in reversed(path.split("/")) if not p.isdigit()), "")


def _check_schedule(warmup_steps, total_steps, decay, milestones):
    if decay not in ("steps", "cosine"):
        raise InputError("optim.decay", "", f"must be steps or cosine, not {decay!r}")
    if not 0 <= warmup_steps <= total_steps:
        rule = f"must lie in 0..{total_steps} (total_steps), is {warmup_steps}"
        raise InputError("optim.warmup_steps", "", rule)
    if list(milestones) != sorted(milestones):
        raise InputError("optim.milestones", "", f"must rise, are {milestones}")

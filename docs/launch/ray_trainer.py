"""Train on a Ray cluster: a process of train.py for each GPU, eight unless told.

    WORKERS=16 python docs/launch/ray_trainer.py --workdir=/shared/runs/mine \
        --config=configs/ytvis19_r50_sta.py:scratch --config.run.eval_every=0 ...

Run it in the checkout, with `pip install 'ray[train]'`. All nodes see that, workdir and
frames under the same paths, and have installed what it takes. Where a worker is lost,
all begin again from the last checkpoint. On TPUs: ScalingConfig(use_tpu=True,
topology="4x4", accelerator_type="TPU-V6E", num_workers=4), without
`resources_per_worker`.
"""

import os
import sys

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.jax import JaxTrainer


def process(given: dict) -> None:
    """One of the processes; Ray has already told JAX of the others."""
    os.chdir(given["checkout"])
    sys.path.insert(0, given["checkout"])
    from absl import flags

    import train  # here, not where the trainer is: JAX takes the devices

    sys.argv = ["train.py", *given["arguments"]]  # where the config's flags look too
    train.main(flags.FLAGS(sys.argv))


if __name__ == "__main__":
    JaxTrainer(
        process,
        train_loop_config={"checkout": os.getcwd(), "arguments": sys.argv[1:]},
        scaling_config=ScalingConfig(
            use_gpu=True,
            num_workers=int(os.environ.get("WORKERS", "8")),
            resources_per_worker={"GPU": 1, "CPU": 8},
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()

"""What a config takes of machines that are not here: compiled for them, not run.

    stan plan --config configs/shapes_sta.py --platform tpu --topology v5e:2x2
    stan plan --config configs/ytvis19_r50_sta.py:scratch --platform cuda \
        --topology h100:8 --set run.dtype=bfloat16 --largest

Training step and tracker are compiled as train.py and eval.py compile them, from
shapes alone; what their compiler says is printed: memory of a device, what devices
exchange; and the operations of a step. TPUs need the extra plan-tpu, GPUs plan-cuda. A
ResNet-50 takes a minute of a core to compile for GPUs, for TPUs many.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stan_jax.planning.machines import Machine
    from stan_jax.planning.programs import Cost, TooLarge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("--config", required=True, help="what train.py takes")
    parser.add_argument(
        "--platform", required=True, choices=("tpu", "cuda"), help="of the machine"
    )
    parser.add_argument(
        "--topology", required=True, help="its devices: v5e:4x4, h100:8, h100:2x8"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of a setting, such as data.batch=64; may be repeated",
    )
    parser.add_argument(
        "--classes", type=int, default=40, metavar="N", help="of the data set (40)"
    )
    parser.add_argument(
        "--only", choices=("train", "track"), help="one of both programs"
    )
    parser.add_argument(
        "--largest", action="store_true", help="also search the largest batch"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")


def run(args: argparse.Namespace) -> None:
    """Compile, and print the table."""
    import json
    from pathlib import Path

    import jax

    jax.config.update("jax_platforms", "cpu")  # no chip of this machine is touched
    from stan_jax.files import replacing, require_place
    from stan_jax.planning import machines, programs

    require_place(args.json)
    config = config_of(args.config, args.set)
    machine = machines.find(args.platform, args.topology)
    found: dict[str, Any] = {
        "config": " ".join([args.config, *args.set]),
        "platform": args.platform,
        "topology": args.topology,
        "devices": machine.mesh.size,
        "device": machine.mesh.devices.flat[0].device_kind,
        "memory": machine.memory,
        "batch": config["data"]["batch"],
        "accumulate": config["optim"]["accumulate"],
        "dtype": config["run"]["dtype"],
        "classes": args.classes,
        "jax": jax.__version__,
        "ran": False,
    }
    for line in heading(found):
        print(line, flush=True)
    if args.only != "track":
        cost = attempt(programs.update, config, args.classes, machine)
        found["train"] = row("training step", cost, machine)
        for line in exchanged(found["train"]):
            print(line, flush=True)
    if args.only != "train":
        cost = attempt(programs.tracker, config, args.classes, machine)
        name = f"tracker, {config['tracking']['clip_length']} frames"
        found["track"] = row(name, cost, machine)
    if args.largest and args.only != "track":
        found["largest"] = search(config, args.classes, machine, found["train"])
    if args.json:
        with replacing(args.json) as path:
            Path(path).write_text(json.dumps(found, indent=2) + "\n")


def config_of(name: str, changes: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a config as nested dicts.

    Args:
      name: FILE or FILE:ARGUMENT, as train.py takes it.
      changes: of settings, "data.batch=64".
    Raises: InputError for what is no config, and no setting of it.
    """
    import ast
    import runpy
    from pathlib import Path

    from stan_jax.errors import InputError
    from stan_jax.pretrained import record

    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise InputError(path, "", "there is no such file; configs/ has some")
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
        config.lock()
    except Exception as error:  # whatever the code of a user raises
        raise InputError(name, "", f"cannot be loaded: {error}") from error
    for change in changes:
        key, _, text = change.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text  # as "bfloat16", which needs no quotes
        try:
            config.update_from_flattened_dict({key: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())[:150]
            raise InputError("--set", change, f"cannot be set: {text}") from None
    return record.modern(config.to_dict())


def attempt(
    compile: "Callable[..., Cost]",
    config: dict[str, Any],
    classes: int,
    machine: "Machine",
) -> "Cost | TooLarge":
    """Return what a program costs, or that its compiler finds it too large."""
    from stan_jax.planning.programs import TooLarge

    try:
        return compile(config, classes, machine)
    except TooLarge as error:
        return error


def heading(found: dict[str, Any]) -> list[str]:
    """Return the lines above the table."""
    batch = f"batch {found['batch']}"
    if found["accumulate"] > 1:
        batch += f" in {found['accumulate']} parts"
    return [
        f"{found['config']}: {batch}, {found['dtype']}, {found['classes']} classes",
        f"{found['platform']} {found['topology']}, {found['devices']} x "
        f"{found['device']}: compiled, not run (jax {found['jax']})",
        "",
        f"{'GiB a device':18}{'arguments':>11}{'temporaries':>13}{'peak':>8}{'of':>8}"
        f"{'GFLOP':>12}{'compiled in':>14}",
    ]


def row(name: str, cost: "Cost | TooLarge", machine: "Machine") -> dict[str, Any]:
    """Print the line of a program, and return its figures."""
    from stan_jax.planning.programs import TooLarge

    if isinstance(cost, TooLarge):
        known = cost.needed is not None
        needed = f"{gib(cost.needed)} of" if known else "more than it has,"
        print(f"{name:18} does not fit: needs {needed} {gib(machine.memory)} GiB")
        return {"fits": False, "needs": cost.needed, "why": str(cost)[:1000]}
    memory, fits = cost.memory, cost.memory.peak <= machine.memory
    print(
        f"{name:18}{gib(memory.arguments + memory.beside):>11}"
        f"{gib(memory.temporaries + memory.code):>13}{gib(memory.peak):>8}"
        f"{gib(machine.memory):>8}{cost.flops / 1e9:>12,.1f}"
        f"{f'{cost.cpu_seconds:.0f} s of CPU':>14}"
    )
    if not fits:
        rule = f"needs {gib(memory.peak)} of {gib(machine.memory)} GiB"
        print(f"{'':18} does not fit: {rule}")
    return {
        "fits": fits,
        "memory": memory._asdict() | {"peak": memory.peak},
        "flops": cost.flops,
        "collectives": {k: c._asdict() for k, c in cost.collectives.items()},
        "seconds": round(cost.seconds, 1),
        "cpu_seconds": round(cost.cpu_seconds, 1),
    }


def exchanged(step: dict[str, Any]) -> list[str]:
    """Return the lines about what the devices exchange in a step."""
    return [
        f"{'':18} {kind}: {c['times']}, {c['size'] / 2**20:.1f} MiB in all"
        for kind, c in step.get("collectives", {}).items()
    ]


def search(
    config: dict[str, Any], classes: int, machine: "Machine", first: dict[str, Any]
) -> dict[str, Any]:
    """Print the largest batch that fits, and return it with what was compiled."""
    import math

    from stan_jax.planning import programs
    from stan_jax.planning.largest import largest

    def peak(batch: int) -> float:
        wanted = config | {"data": config["data"] | {"batch": batch}}
        cost = attempt(programs.update, wanted, classes, machine)
        if isinstance(cost, programs.TooLarge):
            found = float(cost.needed or math.inf)
        else:
            found = float(cost.memory.peak)
        print(f"batch {batch:<12} {gib(found)} GiB", flush=True)
        return found

    unknown = {"peak": first.get("needs") or math.inf, "arguments": 0, "beside": 0}
    memory = first.get("memory", unknown)
    start = config["data"]["batch"], float(memory["peak"])
    step = machine.mesh.size * config["optim"]["accumulate"]
    fixed = float(memory["arguments"] + memory["beside"])
    batch, peaks = largest(peak, start, step, float(machine.memory), fixed)
    told = f"{batch} ({gib(peaks[batch])} GiB)" if batch else "none"
    print(f"largest batch that fits: {told}, by {len(peaks)} compiles")
    known = {str(b): p if p < math.inf else None for b, p in sorted(peaks.items())}
    return {"batch": batch, "peaks": known}


def gib(size: int | float) -> str:
    """Return bytes as GiB."""
    return f"{size / 2**30:.2f}"

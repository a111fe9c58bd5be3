import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from stan_jax import presets
from stan_jax.configs import ovis_r50_sta, shapes_ablation
from stan_jax.model.build import architecture, assemble, build
from stan_jax.model.stan import Thresholds
from stan_jax.pretrained import record
from stan_jax.training import losses, optimizer

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__"
)


@pytest.fixture(params=NAMES)
def module(request):
    return importlib.import_module(f"stan_jax.configs.{request.param}")


def test_every_config_opens_with_its_command_and_both_figures(module):
    text = module.__doc__
    assert f"--config=configs/{module.__name__.split('.')[-1]}.py" in text
    assert "Published:" in text
    assert "Ours:" in text


def test_command_that_opens_a_config_needs_no_weights_that_are_not_there(module):
    (argument,) = set(re.findall(r"--config=configs/\w+\.py:?([\w-]*)", module.__doc__))
    c = module.get_config(argument) if argument else module.get_config()
    assert c.model.norm != "frozen_batch" or c.init_from


def test_config_refuses_an_unknown_start():
    with pytest.raises(ValueError, match="'scratch' or one of original, .* is 'zero'"):
        ovis_r50_sta.get_config("zero")


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("_sta")])
def test_every_config_of_stan_has_both_presets_of_the_attention(name):
    module = importlib.import_module(f"stan_jax.configs.{name}")
    start = "scratch-" if "r50" in name else ""
    paper, best = (
        module.get_config(f"{start}{preset}").to_dict() for preset in ("paper", "best")
    )
    for path, value in presets.ATTENTION["best"].items():
        *sections, key = path.split(".")
        printed, taken = paper, best
        for section in sections:
            printed, taken = printed[section], taken[section]
        assert printed.pop(key) != value
        assert taken.pop(key) == value
    assert paper == best
    with pytest.raises(ValueError, match="one of paper, best, is 'worst'"):
        module.get_config(f"{start}worst")


def test_config_sections_bind_to_signatures(module):
    c = module.get_config()
    named = ("backbone", "backbone_args", "norm")
    inspect.signature(build).bind(num_classes=1, rngs=None, **c.model)
    rest = {k: v for k, v in c.model.items() if k not in named}
    inspect.signature(assemble).bind(None, num_classes=1, rngs=None, **rest)
    rule = c.optim.to_dict()
    rule.pop("accumulate")
    inspect.signature(optimizer.build).bind(None, **rule, frozen=())
    assert set(c.loss) == {"weights", "sampling", "kinds"}
    losses.Sampling(**c.loss.sampling)
    losses.LossKinds(**c.loss.kinds)
    Thresholds(**c.thresholds)
    made = record.from_config(c.to_dict(), ["cat"])
    assert made.settings.slots == c.tracking.slots
    assert record.from_json("x", record.to_json(made)) == made


def test_config_names_every_loss_once(module):
    names = {"rpn_score", "rpn_box", "class", "box", "mask", "track"}
    assert set(module.get_config().loss.weights) == names


def test_config_fits_its_canvas(module):
    c = module.get_config()
    assert all(side % 32 == 0 for side in c.data.canvas)
    assert c.data.scale_hw[0] <= c.data.canvas[0]
    assert c.data.scale_hw[1] <= c.data.canvas[1]
    assert c.tracking.slots >= c.thresholds.detections


def test_config_builds_a_model(module):
    c = module.get_config()

    def levels():
        model = build(num_classes=3, **c.model.to_dict(), rngs=nnx.Rngs(0))
        frames = jnp.zeros((1, *c.data.canvas, 3), jnp.uint8)
        return model.features(frames, jnp.asarray(c.data.scale_hw)[None])

    found = jax.eval_shape(levels)
    assert [x.shape[1] for x in found[:4]] == [
        c.data.canvas[0] // stride for stride in (4, 8, 16, 32)
    ]


def test_config_refuses_a_key_that_it_does_not_have(module):
    c = module.get_config().lock()
    with pytest.raises(AttributeError, match="peak_lr"):
        c.optim.peek_lr = 0.1


def test_unknown_ablation_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="SET-VARIANT of .*scaled.* is 'hard-resnet5'"):
        shapes_ablation.get_config("hard-resnet5")


@pytest.mark.parametrize("name", shapes_ablation.VARIANTS)
def test_every_ablation_builds_and_changes_what_it_names(name):
    c = shapes_ablation.get_config(f"blank-{name}")
    build(num_classes=2, **c.model.to_dict(), rngs=nnx.Rngs(0))
    plain = shapes_ablation.get_config("blank-paper").to_dict()
    changed = {
        k
        for k in ("data", "model", "tracking", "run", "loss", "optim")
        if c.to_dict()[k] != plain[k]
    }
    assert changed == {key.split(".")[0] for key in shapes_ablation.VARIANTS[name]}


def test_ablations_that_the_pages_name_are_there():
    texts = [ROOT / "benchmarks/ablation.py", ROOT / "docs/measured.md"]
    texts += [Path(shapes_ablation.__file__), ROOT / "README.md"]
    text = "".join(path.read_text() for path in texts)
    named = set(re.findall(r"shapes_ablation(?:\.py)?:([\w-]+)", text))
    assert len(named) > 2
    for name in named:
        shapes_ablation.get_config(name)


@pytest.mark.parametrize("name", [n for n in NAMES if "baseline" in n])
def test_baseline_differs_from_its_twin_by_the_attention_alone(name):
    twin = importlib.import_module(
        f"stan_jax.configs.{name.replace('baseline', 'sta')}"
    )
    a = importlib.import_module(f"stan_jax.configs.{name}").get_config().to_dict()
    b = twin.get_config().to_dict()
    assert a["model"].pop("sta") is None
    assert b["model"].pop("sta") is not None
    assert a == b


def test_thresholds_may_change_after_training_and_the_backbone_may_not(module):
    settings = module.get_config().model.to_dict()
    base = architecture(settings)
    assert not set(Thresholds._fields) & set(base)
    assert architecture(settings | {"norm": "other"}) != base

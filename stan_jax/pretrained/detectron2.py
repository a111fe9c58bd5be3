"""Names in the ImageNet ResNets of detectron2, `R-50.pkl` and `R-101.pkl` of MSRA.

They stride in the first 1x1, take BGR that is not divided by a deviation, and hold
batch norms as scale and bias only. Source: detectron2 c2_model_loading.py.
"""

from stan_jax.pretrained.names import Rule, caffe_stem, conv


def _affine(source: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{source}_s", f"{path}/scale"), Rule(f"{source}_b", f"{path}/bias")


def _stage(i: int) -> tuple[Rule, ...]:
    """Return the lines of stage i, which Caffe counts from 2 on."""
    block, ours = f"res{i + 1}_{{j}}_branch", f"layer{i}/{{j}}"
    rules = [
        Rule(f"{block}1_w", f"{ours}/downsample/0/kernel", conv),
        *_affine(f"{block}1_bn", f"{ours}/downsample/1"),
    ]
    for k, letter in enumerate("abc", start=1):
        rules += [
            Rule(f"{block}2{letter}_w", f"{ours}/conv{k}/kernel", conv),
            *_affine(f"{block}2{letter}_bn", f"{ours}/bn{k}"),
        ]
    return tuple(rules)


MSRA = (
    Rule("conv1_w", "conv1/kernel", caffe_stem),
    *_affine("res_conv1_bn", "bn1"),
    *(rule for i in (1, 2, 3, 4) for rule in _stage(i)),
    Rule("fc1000_w", ""),
    Rule("fc1000_b", ""),
)
# Their norm divides by nothing; ours by the root of var + 1e-5.
MSRA_DEFAULTS = {"mean": 0.0, "var": 1.0 - 1e-5}

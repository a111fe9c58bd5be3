"""Names in torchvision's ImageNet ResNets: `resnet18` to `resnet101`, ResNeXt."""

from stan_jax.pretrained.names import Rule, conv, norm

BLOCK = "layer{i}.{j}"
OURS = "layer{i}/{j}"

RESNET = (
    Rule("conv1.weight", "conv1/kernel", conv),
    *norm("bn1", "bn1"),
    Rule(f"{BLOCK}.conv{{k}}.weight", f"{OURS}/conv{{k}}/kernel", conv),
    *norm(f"{BLOCK}.bn{{k}}", f"{OURS}/bn{{k}}"),
    Rule(f"{BLOCK}.downsample.0.weight", f"{OURS}/downsample/0/kernel", conv),
    *norm(f"{BLOCK}.downsample.1", f"{OURS}/downsample/1"),
    Rule("fc.weight", ""),  # the classifier of ImageNet
    Rule("fc.bias", ""),
)

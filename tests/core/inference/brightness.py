"""A model that sees nothing but each patch's own brightness, and heads that tell bright from dark."""

from __future__ import annotations

import numpy as np
import torch

from gair_core import checkpoint
from gair_core.config import GAIRConfig, RemoteSensingConfig, StreetViewConfig
from gair_core.head_checkpoint import save_head
from gair_core.heads import HeadClass, HeadConfig, HeadMetadata, LinearChangeHead, LinearHead
from gair_core.model import GAIR
from gair_core.sentinel2.bands import MEAN, STD, normalize

# Within the range that normalisation keeps in every band, so that the model is linear between them.
DARK, BRIGHT = 1000, 2400
CLASSES = (
    HeadClass(value=3, name="dark ground", colour=(10, 20, 30)),
    HeadClass(value=7, name='bright & "wide"', colour=(250, 240, 10)),
)
CHANGES = (
    HeadClass(value=1, name="same", colour=(200, 200, 200)),
    HeadClass(value=2, name="brighter", colour=(255, 0, 0)),
)


def save_model(path, street_view: StreetViewConfig | None = None) -> GAIR:
    """Save a model whose tokens do not look at each other and whose H copies the patch itself."""
    torch.manual_seed(0)
    scenes = RemoteSensingConfig(width=16, depth=1, num_heads=1, final_norm=False)
    config = GAIRConfig(embed_dim=16, remote_sensing=scenes, street_view=street_view, location=None)
    model = GAIR(config).eval()
    with torch.no_grad():
        for name, tensor in model.remote_sensing.named_parameters():
            if "blocks" in name and ("proj" in name or "fc2" in name):
                tensor.zero_()
        model.nili.layers[0].weight.zero_()
        model.nili.layers[0].weight[:, 4:-2:9] = torch.eye(16)
    checkpoint.save(model, path)
    return checkpoint.load(path)


def embedding(model: GAIR, dn: float) -> torch.Tensor:
    images = normalize(torch.full((1, 10, 8, 8), float(dn)), MEAN, STD, quantize=False)
    with torch.no_grad():
        return model.interpolate_dense(model.encode_remote_sensing(images), (2, 2))[0, :, 1, 1]


def save_bright_head(path, model: GAIR, classes=CLASSES, **options):
    """Save a head whose boundary is where the embedding is halfway between dark and bright."""
    dark, bright = embedding(model, DARK), embedding(model, BRIGHT)
    head = LinearHead(HeadConfig(embed_dim=16), HeadMetadata(title="brightness", classes=classes))
    with torch.no_grad():
        head.weight[1] = bright - dark
        head.bias[1] = -(bright - dark) @ (bright + dark) / 2
    return save_head(head, path, model, **options)


def save_change_head(path, model: GAIR, **options):
    """Save a head for what became brighter by at least half of the way from dark to bright."""
    difference = embedding(model, BRIGHT) - embedding(model, DARK)
    head = LinearChangeHead(HeadConfig(embed_dim=16), HeadMetadata(title="brighter", classes=CHANGES))
    with torch.no_grad():
        head.weight[0, 1], head.weight[1, 1] = -difference, difference
        head.bias[1] = -difference @ difference / 2
    return save_head(head, path, model, **options)


def scene_with_object(shape, rows, columns) -> np.ndarray:
    dn = np.full((10, *shape), DARK, np.uint16)
    dn[:, rows, columns] = BRIGHT
    return dn

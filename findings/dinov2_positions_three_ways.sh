#!/usr/bin/env bash
# Three packages resize the position embeddings of the same DINOv2 to 224 pixels in three ways.
#
# Seen on 2026-11-30 with dinov2 0.0.1.dev2 (the release), timm 1.0.31, transformers (pinned below),
# torch 2.15.0. The embeddings are a grid of 37×37 (518 pixels); 224 pixels need 16×16. Relative
# differences from the release, of random embeddings with a smooth part:
#
#   release:      bicubic, no antialiasing, scale (16 + 0.1) / 37
#   timm:         bicubic with antialiasing, size 16
#   transformers: bicubic, no antialiasing, size 16
#
# So features of "DINOv2 at 224" differ, and Fréchet distances from different tools do not compare.
# Expected: one way, since all three load the same published weights.
#
# Exits with 0 if all three differ. Installs torch (a few minutes) in a temporary folder.
set -euo pipefail
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
python3 -m venv venv
venv/bin/pip install --quiet "torch==2.15.0" numpy "timm==1.0.31" "transformers==5.24.0"
venv/bin/pip install --quiet --no-deps "dinov2==0.0.1.dev2"
cat > script.py <<'PY'
import torch
import timm
from dinov2.models.vision_transformer import DinoVisionTransformer
from transformers import Dinov2Config, Dinov2Model

torch.manual_seed(0)
positions = torch.randn(1, 1 + 37 * 37, 24)
images = torch.zeros(1, 3, 224, 224)

release = DinoVisionTransformer(img_size=518, patch_size=14, embed_dim=24, depth=1, num_heads=1)
release.pos_embed.data.copy_(positions)
first = release.interpolate_pos_encoding(torch.zeros(1, 257, 24), 224, 224)

second = timm.create_model("vit_small_patch14_dinov2", embed_dim=24, depth=1, num_heads=1)
second.pos_embed.data.copy_(positions)
second.set_input_size(img_size=(224, 224))

config = Dinov2Config(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=1, image_size=518, patch_size=14
)
third = Dinov2Model(config).embeddings
third.position_embeddings.data.copy_(positions)
third = third.interpolate_pos_encoding(torch.zeros(1, 257, 24), 224, 224)

for name, other in (("timm", second.pos_embed), ("transformers", third)):
    error = float((other - first).norm() / first.norm())
    print(f"{name} {error:.3f}")
    assert error > 0.01, name
PY
venv/bin/python script.py 2>/dev/null
echo "as described"

"""Which models of each family are published, where, and under which licence?

Facts of other people's releases, as their pages said in 2026; a model's own card counts.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """The models of one family that people study."""

    family: str
    """A name in `DIALECTS`."""
    models: str
    """Sizes, by their names."""
    registers: str
    where: str
    licence: str
    source: str
    """A file or folder of one of them, as it is downloaded."""


PUBLISHED = (
    Published(
        "deit",
        "DeiT-III S, M, B, L, H",
        "0; the study's: 0 to 16",
        "github.com/facebookresearch/deit",
        "Apache-2.0",
        "deit_3_small_224_1k.pth",
    ),
    Published(
        "timm",
        "deit3_*, vit_*_reg4_dinov2",
        "0, 4",
        "huggingface.co/timm",
        "Apache-2.0",
        "deit3_small_patch16_224.fb_in1k",
    ),
    Published(
        "timm-gap",
        "wee, little, medium, mediumd, betwixt, so150m, so150m2; no CLS",
        "1, 4",
        "huggingface.co/timm",
        "Apache-2.0",
        "vit_medium_patch16_reg4_gap_256.sbb_in1k",
    ),
    Published(
        "timm-rope",
        "medium, mediumd, betwixt, base; no CLS, rotary",
        "1, 4",
        "huggingface.co/timm",
        "Apache-2.0",
        "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k",
    ),
    Published(
        "timm-dinov2",
        "vit_*_dinov2",
        "0",
        "huggingface.co/timm",
        "Apache-2.0",
        "vit_small_patch14_dinov2.lvd142m",
    ),
    Published(
        "timm-dinov3",
        "DINOv3 S, S+, B, L, H+; EUPE T, S, B",
        "4",
        "huggingface.co/timm",
        "DINOv3 License; EUPE: FAIR Noncommercial Research",
        "vit_small_patch16_dinov3.lvd1689m",
    ),
    Published(
        "timm-clip",
        "vit_*_clip_*",
        "0",
        "huggingface.co/timm",
        "MIT, Apache-2.0 (by model)",
        "vit_base_patch16_clip_224.openai",
    ),
    Published(
        "dinov2",
        "DINOv2 S, B, L, g, with and without linear head",
        "0, 4",
        "github.com/facebookresearch/dinov2",
        "Apache-2.0",
        "dinov2_vits14_reg4_pretrain.pth",
    ),
    Published(
        "dinov3",
        "DINOv3 S, S+, B, L, H+; EUPE T, S, B",
        "4",
        "github.com/facebookresearch/dinov3, facebookresearch/EUPE",
        "DINOv3 License; EUPE: FAIR Noncommercial Research",
        "dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
    ),
    Published(
        "deit1",
        "DeiT T, S, B; plain ViT of timm (augreg with head)",
        "0",
        "github.com/facebookresearch/deit, huggingface.co/timm",
        "Apache-2.0",
        "deit_small_patch16_224-cd65a155.pth",
    ),
    Published(
        "deit-distilled",
        "DeiT T, S, B, distilled; their two heads are left out",
        "1 (the distillation token)",
        "github.com/facebookresearch/deit",
        "Apache-2.0",
        "deit_small_distilled_patch16_224-649709d9.pth",
    ),
    Published(
        "dino",
        "DINO S, B; iBOT S, B, L",
        "0",
        "github.com/facebookresearch/dino, bytedance/ibot",
        "Apache-2.0",
        "dino_deitsmall16_pretrain.pth",
    ),
    Published(
        "mae",
        "MAE B, L, H: the encoder",
        "0",
        "github.com/facebookresearch/mae",
        "CC-BY-NC-4.0",
        "mae_pretrain_vit_base.pth --family mae",
    ),
    Published(
        "augreg",
        "ViT Ti, S, B, L of timm, without head",
        "0",
        "huggingface.co/timm",
        "Apache-2.0",
        "vit_small_patch16_224.augreg_in21k --family augreg",
    ),
    Published(
        "augreg-jax",
        "ViT Ti, S, B, L (.npz)",
        "0",
        "github.com/google-research/vision_transformer",
        "Apache-2.0",
        "S_16-i1k-300ep.npz",
    ),
    Published(
        "big_vision",
        "ViT S, B, L (.npz), with CLS or pooled patches",
        "0",
        "github.com/google-research/big_vision",
        "Apache-2.0",
        "vit_s16.npz",
    ),
    Published(
        "vit5",
        "ViT-5 S, B, L, XL",
        "4, after the patches",
        "github.com/wangf3014/ViT-5",
        "Apache-2.0",
        "vit5_small_patch16_224.pth",
    ),
    Published(
        "clip",
        "image towers of CLIP and OpenCLIP, B to g",
        "0",
        "github.com/openai/CLIP, mlfoundations/open_clip",
        "MIT",
        "open_clip_pytorch_model.bin",
    ),
    Published(
        "torchvision",
        "vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14",
        "0",
        "download.pytorch.org/models",
        "BSD-3-Clause; SWAG weights: CC-BY-NC-4.0",
        "vit_b_16-c867db91.pth",
    ),
    Published(
        "tips",
        "TIPS, TIPSv2 S, B, L, So400m, g (PyTorch's .npz)",
        "1 (a second CLS token)",
        "github.com/google-deepmind/tips",
        "CC-BY-4.0",
        "tips_oss_s14_highres_distilled_vision.npz",
    ),
    Published(
        "hf",
        "Dinov2, Dinov2WithRegisters S, B, L, g, with and without classifier",
        "0, 4",
        "huggingface.co/facebook",
        "Apache-2.0",
        "dinov2-with-registers-small",
    ),
    Published(
        "hf-dinov3",
        "DINOv3 S, S+, B, L, H+",
        "4",
        "huggingface.co/facebook",
        "DINOv3 License",
        "dinov3-vits16-pretrain-lvd1689m",
    ),
    Published(
        "hf-clip",
        "CLIPVisionModel, with and without projection",
        "0",
        "huggingface.co/openai, laion",
        "MIT",
        "clip-vit-base-patch16",
    ),
    Published(
        "hf-vit",
        "ViT B, L, H",
        "0",
        "huggingface.co/google",
        "Apache-2.0",
        "vit-base-patch16-224",
    ),
    Published(
        "mmpretrain",
        "VisionTransformer, DeiT",
        "0",
        "github.com/open-mmlab/mmpretrain",
        "Apache-2.0",
        "vit-base-p16_in21k-pre.pth",
    ),
    Published(
        "mmpretrain-deit3",
        "DeiT3 S, M, B, L, H",
        "0",
        "github.com/open-mmlab/mmpretrain",
        "Apache-2.0",
        "deit3-small-p16_3rdparty_in1k.pth",
    ),
    Published(
        "deit3-jax",
        "DeiT-III S, B, L, H",
        "0",
        "github.com/affjljoo3581/deit3-jax",
        "Apache-2.0",
        "deit3-s16-224-in1k-400ep.msgpack",
    ),
)

"""What does the study claim, where, and by which rule is each claim judged?

The study is "Registers in Small Vision Transformers: A Reproducibility Study of Vision
Transformers Need Registers" (Bach et al., TMLR 2025). What is published is quoted with the place
where it stands; the rules are in `regvit_jax.analysis.claims.rules`.
"""

import dataclasses
from collections.abc import Callable

from regvit_jax.analysis.claims.accuracy import (
    PUBLISHED_MARGIN,
    TOP1_MARGIN,
    count_is_minor,
    top1_is_reproduced,
)
from regvit_jax.analysis.claims.evidence import Evidence, Findings
from regvit_jax.analysis.claims.interventions import MARGIN as STAYS
from regvit_jax.analysis.claims.interventions import (
    dense_features_gain,
    mean_registers_cost_nothing,
    other_registers_cost_nothing,
    shifted_units_cost_nothing,
    shifted_units_end_outliers,
    silent_units_cost,
    zeroed_patches_cost_little,
    zeroed_registers_cost,
)
from regvit_jax.analysis.claims.numbers import (
    accuracies,
    centred_cosines,
    low_tails,
    probe_accuracies,
    register_map_cosines,
    training_hours,
)
from regvit_jax.analysis.claims.rules import (
    AUC_MARGIN,
    RATIO_MARGIN,
    detail_is_lost,
    lost_improves,
    lost_improves_dinov2,
    maps_are_cleaner,
    neighbours_are_alike,
    outliers_exist,
    outliers_know_more,
    outliers_shrink,
    register_maps_part,
)
from regvit_jax.analysis.statistics.seeds import MIN_SEEDS

RUNS = (
    f"An interval over training runs, {MIN_SEEDS} or more a side, decides; one pair of models "
    "speaks for itself only."
)
STUDIED = "DeiT-III Small on ImageNet"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One of the study's claims, figures and tables, or a claim of the literature it rests on."""

    number: int
    words: str
    published: str
    where: str
    """In the study; from claim 20 on, in another paper, which is named."""
    rule: str
    """How it is judged; or why the tool can never judge it."""
    judge: Callable[[Evidence], Findings] | None = None
    """None: never judged."""
    show: Callable[[Evidence], list[str]] | None = None
    """Our numbers where nothing can be judged."""
    about: str = STUDIED
    """The models and images that it is about."""


CLAIMS = (
    Claim(
        1,
        "A small vision transformer, DeiT-III Small, has patch tokens of high norm.",
        "98 % quantile of the norms after the last LayerNorm: 63.85 (ImageNet), 72.48 (Imagenette)",
        "abstract, README; notebooks on cosine similarity and on reconstruction",
        "Models without registers: `norms` finds a separate group of large norms (rare, far, "
        "apart, isolated and grown) after some block, and finds none in an untrained model of the "
        "same shape. A quantile is no evidence: any distribution has one.",
        outliers_exist,
    ),
    Claim(
        2,
        "Registers partially alleviate them: the norms are distributed more smoothly.",
        "a figure, no number",
        "abstract, README, main notebook",
        "Models without and with registers: the share of outliers falls, both counted from the "
        "layer and the cut (in medians of an image) at which the model without has them, where it "
        f"has outliers. {RUNS}",
        outliers_shrink,
    ),
    Claim(
        3,
        "Attention maps of DeiT-III Small, DINOv2-g and DINOv2-S, without and with registers.",
        "figure 1, no number",
        "figure 1",
        "A qualitative figure; see Attention for ours. Claim 10 has the number.",
        about="",
    ),
    Claim(
        4,
        "Summary of the models, with DINOv2-S added in the revision.",
        "not available to us",
        "table 1",
        "The contents of the table were not available, so there is nothing to compare with.",
        about="",
    ),
    Claim(
        5,
        "Results with standard deviations over test runs, probably of single tokens as features.",
        "not available to us",
        "table 2",
        "The contents of the table were not available. Claim 16 judges what single tokens know.",
        show=probe_accuracies,
        about="",
    ),
    Claim(
        6,
        "DeiT-III Small reaches the published accuracy, without and with 4 registers.",
        "top-1 81.05 % without, 80.81 % with 4 registers",
        "README and training logs, epoch 799",
        "DeiT-III Small with 0 or 4 registers on ImageNet's 50,000 validation images: the accuracy "
        f"lies within {100 * PUBLISHED_MARGIN:g} points of the published one (a margin of ours; a "
        "seed changes some 0.2 points). Both are of the same images, so that an interval over "
        "images says nothing here.",
        top1_is_reproduced,
        show=accuracies,
    ),
    Claim(
        7,
        "The number of registers has little effect on accuracy.",
        "“minimal effect” of 2, 8 and 16 registers; numbers not available to us",
        "sections 4.2.3 and 4.3.1",
        "Models without and with registers, at least one with 2, 8 or 16, evaluated on the same "
        f"images: the interval of the change of accuracy lies within ±{100 * TOP1_MARGIN:g} point "
        f"(a margin of ours). {RUNS} That of a single pair is Newcombe's for two shares, unpaired "
        "and so rather too wide.",
        count_is_minor,
    ),
    Claim(
        8,
        "LOST finds objects better with registers.",
        "CorLoc 15.13 → 17.92 % (README); 11.77 → 12.23 % (notebooks, epoch 299)",
        "README; notebooks. The two disagree",
        f"Models without and with registers, other than DINOv2-L: CorLoc rises. {RUNS}",
        lost_improves,
    ),
    Claim(
        9,
        "So it does in DINOv2-L.",
        "CorLoc 33.77 → 35.24 %",
        "notebook, keys of the last block",
        "As claim 8, for models of DINOv2-L's shape (24 blocks of width 1024, patches of 14 px).",
        lost_improves_dinov2,
        about="DINOv2-L",
    ),
    Claim(
        10,
        "Attention maps of CLS are cleaner with registers, more so for some images than others.",
        "pictures; the garbage truck's map stays unclean",
        "figures of attention maps",
        "Models without and with registers: of the attention that CLS gives to patches, outliers "
        "get less, both told as for claim 2, where the model without registers has outliers. "
        f"{RUNS}",
        maps_are_cleaner,
    ),
    Claim(
        11,
        "The four registers' maps end up as near copies of the map of CLS.",
        "pictures",
        "figure of register maps",
        "A qualitative figure; see Attention for ours. Maps of attention are never negative "
        "and therefore similar by plain cosine in any model.",
        show=centred_cosines,
        about="",
    ),
    Claim(
        12,
        "Artifacts come and go during training.",
        "pictures, every 80 epochs",
        "figure of maps over epochs",
        "A qualitative figure; see Attention for ours where stages of a run are analysed.",
        about="",
    ),
    Claim(
        13,
        "The registers' maps become less similar during training.",
        "mean cosine .9953 (epoch 0) → .9289 (epoch 799)",
        "notebook on register similarity, 41 checkpoints",
        "Two stages of one run with registers, both after the warm-up of the learning rate: the "
        "centred cosine falls (paired interval below 0). The plain one starts near 1 for even maps "
        "and can only fall.",
        register_maps_part,
        show=register_map_cosines,
    ),
    Claim(
        14,
        "Outlier patches are no more like their neighbours than other patches are.",
        "98 %: the two densities nearly coincide; 99.5 %: not kept",
        "notebook on cosine similarity",
        "Models without registers that have outliers: the AUC of “an outlier is more like its "
        f"neighbour” lies within {AUC_MARGIN:g} of 0.5 (a margin of ours) for the group found.",
        neighbours_are_alike,
    ),
    Claim(
        15,
        "Outlier patches lose local detail: their pixels are reconstructed worse.",
        "error ratio 147.09 %, of a probe that both groups fit worse than no prediction at all",
        "notebook on reconstruction",
        "Models without registers that have outliers: the pixel error of the outliers found, "
        "divided by that of normal patches of the same pixel variance, each group read by a linear "
        f"probe of its own, lies above {1 + RATIO_MARGIN:g} (a margin of ours). One probe for both "
        "would take another length for a loss. The published number has faults (`--protocol study` "
        "repeats them) and is not compared.",
        detail_is_lost,
    ),
    Claim(
        16,
        "Outlier patches hold global information.",
        "not available to us",
        "abstract",
        "Models without registers that have outliers: logistic regression tells the image's class "
        "better from one outlier patch than from a normal patch of the same images, from the "
        "outlier's neighbour, and from the same patch after block 0 (paired intervals above 0); "
        "all learn from, and are judged on, images that have an outlier.",
        outliers_know_more,
    ),
    Claim(
        17,
        "There are low-norm artifacts as well.",
        "not available to us",
        "section 1.1",
        "The definition of a low-norm artifact was not available. We show the share of patches "
        "below a third of the median norm.",
        show=low_tails,
        about="",
    ),
    Claim(
        18,
        "Comparison with DINOv2 and another baseline.",
        "not available to us",
        "notebooks in comparison/, missing from the code",
        "The notebooks were not available. Any converted checkpoints can be compared with "
        "`regvit-analyze all`.",
        about="",
    ),
    Claim(
        19,
        "Limitations, and the compute that was used.",
        "not available to us",
        "section 5.1 and appendix E",
        "The published figures were not available, and hours depend on the machine. Energy is not "
        "measured.",
        show=training_hours,
        about="",
    ),
    Claim(
        20,
        "That there are registers matters: zeroing them costs accuracy.",
        "probe of CLS 67.3 → 48.4 % (DINOv2-S with registers), 62.0 → 25.4 % (DINOv3-S)",
        "Parodi et al., arXiv:2604.14433, ablations of registers",
        "Models with registers: the change of top-1 (of the head where it fits the images, else of "
        "a linear probe) with all registers zeroed after every block lies below 0.",
        zeroed_registers_cost,
        about="DINOv2-S and DINOv3-S",
    ),
    Claim(
        21,
        "What registers hold does not matter: their mean over the images will do.",
        "67.3 → 67.0 % (DINOv2-S with registers), 62.0 → 62.1 % (DINOv3-S)",
        "Parodi et al., arXiv:2604.14433, ablations of registers",
        f"Models with registers: the change of top-1 lies within ±{100 * STAYS:g} point (a margin "
        "of ours) with registers replaced by their mean.",
        mean_registers_cost_nothing,
        about="DINOv2-S and DINOv3-S",
    ),
    Claim(
        22,
        "The registers of other images will do.",
        "67.3 → 67.8 % (DINOv2-S with registers), 62.0 → 62.0 % (DINOv3-S)",
        "Parodi et al., arXiv:2604.14433, ablations of registers",
        f"As claim 21, with the registers of other images: within ±{100 * STAYS:g} point.",
        other_registers_cost_nothing,
        about="DINOv2-S and DINOv3-S",
    ),
    Claim(
        23,
        "As many random patches can be zeroed almost for free.",
        "4 random patches: at most 1 point",
        "Parodi et al., arXiv:2604.14433, control of the ablations",
        f"Models with registers: the change of top-1 with random patches zeroed lies within "
        f"±{100 * STAYS:g} point.",
        zeroed_patches_cost_little,
        about="DINOv2-S and DINOv3-S",
    ),
    Claim(
        24,
        "A few hidden units write the outliers: shifted to an added token, they leave none.",
        "10 units of OpenCLIP-B/16, 45 of DINOv2-L/14",
        "Jiang et al., arXiv:2506.08010, algorithms 1 and 2",
        "Models with outliers: with the units shifted that `neurons` finds, at most a tenth of the "
        "outliers is left (the interval of their share lies below that; a margin of ours).",
        shifted_units_end_outliers,
        about="OpenCLIP-B/16 and DINOv2-L/14",
    ),
    Claim(
        25,
        "Test-time registers leave accuracy as it is.",
        "linear probe on ImageNet 86.36 → 86.38 % (DINOv2-L), 77.42 → 77.53 % (OpenCLIP-B)",
        "Jiang et al., arXiv:2506.08010, table of linear probes",
        f"Models with outliers: the change of the head's top-1 lies within ±{100 * STAYS:g} point "
        "with the chosen units shifted.",
        shifted_units_cost_nothing,
        about="OpenCLIP-B/16 and DINOv2-L/14",
    ),
    Claim(
        26,
        "Silent instead of shifted, the same units cost accuracy.",
        "zero-shot top-1 70.4 → 55.6 % (OpenCLIP-B/16)",
        "Jiang et al., arXiv:2506.08010, ablation of the shift",
        "Models with outliers: the change of the head's top-1 with the chosen units zeroed lies "
        "below 0.",
        silent_units_cost,
        about="OpenCLIP-B/16",
    ),
    Claim(
        27,
        "Dense features gain from registers.",
        "mean IoU on ADE20k 38.9 → 39.1 (DeiT-III-B), 26.6 → 26.7 (OpenCLIP-B), 46.6 → 47.9 "
        "(DINOv2-L)",
        "Darcet et al., arXiv:2309.16588, table 2",
        "Models without and with registers: the mean IoU of a linear classifier of patches rises. "
        f"{RUNS}",
        dense_features_gain,
        about="DeiT-III-B, OpenCLIP-B and DINOv2-L",
    ),
)

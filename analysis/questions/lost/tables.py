"""Which numbers on object discovery are there, and under which keys?"""

from regvit_jax.analysis.engine.analysis import Quantity, Table

SCORES = {
    "corloc": Quantity("CorLoc", is_share=True, is_compared=True),
    "best_iou": Quantity("overlap with the object that fits best (IoU)", is_compared=True),
    "num_found": Quantity("images whose box found an object"),
    "seeds_outside_mask": Quantity("images whose box is the seed's patch"),
}
LOST = Table("lost", "Objects found", (), SCORES, on_page=True)
SETTINGS = Table(
    "lost_settings", "CorLoc by model and setting", ("feature", "layer", "gram_bias"), SCORES
)
AGAINST = Table(
    "lost_against",
    "Boxes of LOST minus boxes that look at nothing",
    ("baseline",),
    {
        "corloc": Quantity("CorLoc, difference", is_share=True),
        "best_iou": Quantity("best overlap, difference"),
        "only_baseline": Quantity("images that the baseline alone finds"),
        "only_lost": Quantity("images that LOST alone finds"),
        "p_value": Quantity("McNemar's exact test, p"),
    },
)


SEEDS = Table(
    "lost_outliers",
    "Outliers, and what CLS looks at",
    (),
    {
        "seed_is_outlier": Quantity("images whose seed is an outlier", is_share=True),
        "outliers": Quantity("patches that are outliers", is_share=True),
        "points_at_object": Quantity(
            "images whose patch most attended by CLS lies in an object", is_share=True
        ),
    },
    on_page=True,
)

"""Which numbers on norms are there, and under which keys?"""

from regvit_jax.analysis.engine.analysis import Quantity, Table
from regvit_jax.analysis.outliers.labels import LABEL_QUANTITIES, TENSOR_LABELS, WORDS
from regvit_jax.analysis.questions.norms.norms import QUANTILES

BY_LAYER = Table(
    "norms_by_layer",
    "Norms by layer and kind of token",
    ("layer", "kind"),
    {
        name: Quantity(title)
        for name, title in {
            "mean": "mean norm",
            **{
                name: f"{100 * level:g} % quantile of the norms"
                for name, level in QUANTILES.items()
            },
            "max": "largest norm",
        }.items()
    },
)
OUTLIERS = Table(
    "outliers",
    "Definitions of an outlier side by side",
    ("tensor", "definition"),
    LABEL_QUANTITIES
    | {
        "share": LABEL_QUANTITIES["share"]._replace(is_compared=True),
        "per_image": Quantity("outliers in an image, on average"),
    },
    on_page=True,
    words=WORDS,
)
TESTS = Table(
    "norm_tests",
    "Tests that can fail",
    ("tensor",),
    {
        "excess_kurtosis": Quantity("excess kurtosis of the norms"),
        "max_over_median": Quantity("largest norm / median"),
        "dip_all": Quantity("dip of all patches", on_page=False),
        "dip_all_p": Quantity("dip test of all patches, p"),
        "dip_upper_5_percent": Quantity("dip of the upper 5 %", on_page=False),
        "dip_upper_5_percent_p": Quantity("dip test of the upper 5 %, p"),
    },
    on_page=True,
    words=TENSOR_LABELS,
)
EXTREMES = Table(
    "norm_extremes",
    "Smallest and largest patches after the last block",
    (),
    {
        "largest_over_median": Quantity(
            "largest norm of an image / median, on average", is_compared=True
        ),
        "share_below_third": Quantity("patches below a third of the median norm", is_share=True),
        "min_over_median": Quantity("smallest norm / median"),
        "q02_over_median": Quantity("norm below which 2 % lie / median"),
    },
)


BY_ONE_CUT = Table(
    "outliers_by_one_cut",
    "Outliers by the cut of the model with fewer registers",
    (),
    {"share": Quantity("patches that are outliers, by one cut", is_share=True)},
)

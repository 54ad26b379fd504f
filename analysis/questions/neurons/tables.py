"""Which numbers on register neurons are there, and under which keys?"""

from regvit_jax.analysis.engine.analysis import Quantity, Table

SCORES = {
    "top1": Quantity("top-1 of the head", is_share=True),
    "top1_change": Quantity("top-1 of the head, change", is_share=True, is_compared=True),
    "same_answer": Quantity("images with the same answer of the head", is_share=True),
    "corloc": Quantity("CorLoc of LOST", is_share=True),
    "corloc_change": Quantity("CorLoc of LOST, change", is_share=True, is_compared=True),
    "outliers": Quantity("patches that are outliers", is_share=True, is_compared=True),
    "largest": Quantity("largest patch norm over the median of its image", is_compared=True),
}
NEURONS = Table("neurons", "Units shifted to test-time registers", ("condition", "units"), SCORES)
CHOSEN = Table(
    "test_time_registers",
    "With the chosen units shifted",
    (),
    {"num_units": Quantity("units")}
    | SCORES
    | {"outliers_before": Quantity("patches that were outliers", is_share=True)},
    on_page=True,
)

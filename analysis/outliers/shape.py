"""Numbers that outliers would make large and a distribution with one mode keeps small."""

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

_DIP_SAMPLE = 20_000
_DIP_TAIL = 0.05


def shape_tests(
    norms: Float[np.ndarray, "n p"], bootstrap: Bootstrap
) -> dict[str, Estimate | float]:
    """Numbers that outliers would make large and a single-moded distribution keeps small.

    The p-values of the dip test treat patches as independent, which those of one image are not:
    they are too small, never too large.
    """
    pooled = norms.astype(np.float64).ravel()
    scale = pooled.std() or 1.0
    z = (norms - pooled.mean()) / scale
    moments = np.stack([(z**power).mean(axis=1) for power in (1, 2, 3, 4)], axis=1)
    kurtosis = bootstrap.statistic(moments, _excess_kurtosis)[0]
    largest = Estimate(float(pooled.max() / np.median(pooled)), norms.shape[0])
    return {
        "excess_kurtosis": kurtosis,
        "max_over_median": largest,
        **_dip_tests(pooled, bootstrap.seed),
    }


def _excess_kurtosis(moments):
    """Excess kurtosis from the means of the first four powers, (..., 4)."""
    m1, m2, m3, m4 = np.moveaxis(moments, -1, 0)
    variance = np.maximum(m2 - m1**2, 1e-12)
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return (fourth / variance**2 - 3)[..., None]


def _dip_tests(pooled, seed: int) -> dict[str, float]:
    """Hartigan's dip of the log norms: of all, and of the upper 5 %, where rare groups show."""
    import diptest

    log_norms = np.log(np.maximum(pooled, 1e-12))
    tail = log_norms[log_norms >= np.quantile(log_norms, 1 - _DIP_TAIL)]
    results = {}
    for name, values in (("all", log_norms), ("upper_5_percent", tail)):
        if len(values) > _DIP_SAMPLE:
            generator = np.random.default_rng(seed)
            values = generator.choice(values, _DIP_SAMPLE, replace=False)
        if len(values) < 4 or np.ptp(values) == 0:
            continue
        dip, p_value = diptest.diptest(values)
        results[f"dip_{name}"], results[f"dip_{name}_p"] = float(dip), float(p_value)
    return results

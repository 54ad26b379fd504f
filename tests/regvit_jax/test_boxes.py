"""Do boxes meet as pixels counted one by one say?"""

import numpy as np

from regvit_jax.boxes import area, best_iou, central_box, full_box, iou, visible


def pixels(box, size=12):
    """The set of pixels inside a half-open box."""
    mask = np.zeros((size, size), bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = True
    return mask


def random_boxes(count, seed):
    corners = np.random.default_rng(seed).integers(0, 13, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(float)


def test_overlap_equals_counted_pixels():
    first, second = random_boxes(30, 0), random_boxes(20, 1)
    overlap = iou(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            shared, either = pixels(a) & pixels(b), pixels(a) | pixels(b)
            expected = shared.sum() / either.sum() if either.any() else 0.0
            assert overlap[i, j] == expected


def test_the_best_object_counts():
    objects = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6]])
    assert best_iou(np.array([2.0, 2, 6, 4]), objects) == 0.5


def test_boxes_without_area_are_not_visible():
    boxes = np.array([[0.0, 0, 3, 2], [5, 5, 5, 9], [4, 4, 2, 8]])
    assert area(boxes).tolist() == [6, 0, 0]
    assert visible(boxes).tolist() == [True, False, False]


def test_the_central_box_is_a_quarter_of_the_image():
    assert central_box(500, 374).tolist() == [125, 93.5, 375, 280.5]
    assert area(np.stack([full_box(500, 374), central_box(500, 374)])).tolist() == [187000, 46750]

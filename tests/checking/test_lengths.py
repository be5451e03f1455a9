"""Input shapes that keep rows whose labels are too long."""

from hypothesis import given
from hypothesis import strategies as st

from raycrnn.checking.lengths import MAX_HEIGHT, saving_shapes
from raycrnn.data import image

SHAPE = (32, 256)


def fits(size, frames, shape):
    return image.frames(image.fitted_width(size, shape)) >= frames


def test_a_width_or_a_height_is_suggested():
    # 320 pixels are needed, which the line has at this height; and 100, which it has only at 64 pixels.
    wide, narrow, hopeless = ((1000, 32), 79), ((50, 32), 24), ((20, 32), 200)
    assert saving_shapes([wide], SHAPE) == ({(32, 320): 1}, 0)
    assert saving_shapes([narrow], SHAPE) == ({(64, 256): 1}, 0)
    assert saving_shapes([narrow, wide, hopeless], SHAPE) == ({(32, 320): 1, (64, 320): 2}, 1)
    assert saving_shapes([], SHAPE) == ({}, 0)


rows = st.tuples(st.tuples(st.integers(1, 2000), st.integers(8, 200)), st.integers(1, 300))


@given(st.lists(rows, max_size=20))
def test_a_suggested_shape_keeps_as_many_rows_as_stated_and_no_lower_one_keeps_the_others(found):
    too_long = [row for row in found if not fits(*row, SHAPE)]
    saved, lost = saving_shapes(too_long, SHAPE)
    for shape, count in saved.items():
        assert sum(fits(*row, shape) for row in too_long) == count
        assert shape[0] % 16 == 0 and shape[1] % 16 == 0
    heights = [32, *(height for height, _ in saved)]
    for height in set(range(32, MAX_HEIGHT + 1, 16)) - set(heights):
        lower = max((count for (other, _), count in saved.items() if other < height), default=0)
        assert sum(fits(*row, (height, 10**4)) for row in too_long) == lower
    assert lost == len(too_long) - max(saved.values(), default=0)

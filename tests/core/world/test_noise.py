import numpy as np

from gair_core.world.noise import (
    TEXTURE_SIZE,
    gradient_noise,
    hashes,
    layered_noise,
    look_up,
    look_up_smoothly,
    seed_of,
    smooth_step,
    texture,
    unit,
)


def test_hashes_are_even_and_unrelated():
    grid = np.arange(-200, 200, dtype=np.int32)
    values = unit(hashes(grid[:, None], grid[None], 7), 0)
    counts = np.histogram(values, bins=16, range=(0, 1))[0]
    assert np.abs(counts / values.size - 1 / 16).max() < 0.003
    for shift in ((1, 0), (0, 1), (1, 1)):
        moved = np.roll(values, shift, axis=(0, 1))
        assert abs(np.corrcoef(values.ravel(), moved.ravel())[0, 1]) < 0.01
    assert (hashes(grid, grid, 7) != hashes(grid, grid, 8)).all()


def test_seed_depends_on_order_and_every_part():
    seeds = {seed_of(*parts) for parts in ((1, 2), (2, 1), (1, 2, 0), (1,), (-1, 2), (1, 2**33))}
    assert len(seeds) == 6


def test_gradient_noise_is_continuous_and_zero_on_corners():
    corners = np.arange(-5, 6, dtype=np.float32)
    assert np.abs(gradient_noise(corners, corners, 3)).max() < 1e-6
    x = np.linspace(-3, 3, 4001, dtype=np.float32)
    values = gradient_noise(x, x * np.float32(0.37), 3)
    assert np.abs(np.diff(values)).max() < 0.02
    assert values.std() > 0.2


def test_layered_noise_needs_no_neighbourhood():
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-5000, 5000, 500).astype(np.float32) for _ in range(2))
    whole = layered_noise(x, y, 700, 4, 5)
    np.testing.assert_array_equal(layered_noise(x[40:50], y[40:50], 700, 4, 5), whole[40:50])


def test_texture_tiles():
    tile = texture(1, 1.2)
    assert abs(tile.mean()) < 1e-5
    assert abs(tile.std() - 1) < 1e-5
    x = np.linspace(-900, 900, 333, dtype=np.float32)
    np.testing.assert_allclose(
        look_up_smoothly(tile, x, x), look_up_smoothly(tile, x + TEXTURE_SIZE, x - TEXTURE_SIZE), atol=0.02
    )
    whole = np.arange(-3, 3, dtype=np.float32)
    np.testing.assert_array_equal(look_up(tile, whole, whole), tile[whole.astype(int), whole.astype(int)])
    np.testing.assert_allclose(
        look_up_smoothly(tile, whole, whole), tile[whole.astype(int), whole.astype(int)]
    )


def test_smooth_step_rises_and_falls():
    np.testing.assert_allclose(smooth_step(0, 2, np.array([-1.0, 0, 1, 2, 3])), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smooth_step(2, 0, np.array([-1.0, 1, 3])), [1, 0.5, 0])

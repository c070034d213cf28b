import random

from modernbert.train.spikes import Spikes


def usual_losses(count, seed=0):
    generator = random.Random(seed)
    return [4.0 + generator.gauss(0, 0.05) for _ in range(count)]


def test_a_jump_stands_out_and_names_the_usual_loss():
    spikes = Spikes()
    assert all(spikes.usual(loss) is None for loss in usual_losses(100))
    usual = spikes.usual(5.5)
    assert usual is not None
    assert abs(usual - 4.0) < 0.05


def test_noise_and_a_falling_loss_are_no_spikes():
    noise, falling = Spikes(), Spikes()
    assert not any(noise.usual(loss) for loss in usual_losses(2000))
    assert not any(falling.usual(10 - 0.01 * step) for step in range(500))


def test_nothing_is_called_unusual_before_there_is_something_usual():
    spikes = Spikes()
    assert [spikes.usual(loss) for loss in (1.0, 9.0, 1.0, 9.0)] == [None] * 4


def test_a_new_level_becomes_usual():
    spikes = Spikes()
    for loss in usual_losses(100):
        spikes.usual(loss)
    assert spikes.usual(6.0) is not None
    for _ in range(99):
        spikes.usual(6.0)
    assert spikes.usual(6.0) is None

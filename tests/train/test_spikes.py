import random

from modernbert.train.spikes import Spikes


def usual_losses(count, seed=0):
    generator = random.Random(seed)
    return [4.0 + generator.gauss(0, 0.05) for _ in range(count)]


def test_a_spike_is_detected_with_the_usual_loss():
    spikes = Spikes()
    assert all(spikes.detect(loss) is None for loss in usual_losses(100))
    usual = spikes.detect(5.5)
    assert usual is not None
    assert abs(usual - 4.0) < 0.05


def test_noise_and_a_falling_loss_are_not_spikes():
    noise, falling = Spikes(), Spikes()
    assert not any(noise.detect(loss) for loss in usual_losses(2000))
    assert not any(falling.detect(10 - 0.01 * step) for step in range(500))


def test_the_first_losses_are_never_spikes():
    spikes = Spikes()
    assert [spikes.detect(loss) for loss in (1.0, 9.0, 1.0, 9.0)] == [None] * 4


def test_a_new_level_becomes_usual():
    spikes = Spikes()
    for loss in usual_losses(100):
        spikes.detect(loss)
    assert spikes.detect(6.0) is not None
    for _ in range(99):
        spikes.detect(6.0)
    assert spikes.detect(6.0) is None

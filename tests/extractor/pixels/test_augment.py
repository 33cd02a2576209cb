import torch

from extractor.pixels.augment import AUGMENTATIONS, NONE, Augmentation, augment_clips


def smooth_images(n: int) -> torch.Tensor:
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 255
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 255)


def test_nothing_switched_on_changes_nothing() -> None:
    images = smooth_images(4)
    torch.testing.assert_close(augment_clips(images, NONE, clip_length=2), images, atol=1e-2, rtol=1e-4)


def test_frames_of_a_clip_share_one_draw_and_clips_do_not() -> None:
    images = smooth_images(1).expand(12, -1, -1, -1)
    torch.manual_seed(5)
    out = augment_clips(images, AUGMENTATIONS["full"], clip_length=4)
    for clip in out.split(4):
        assert all(torch.equal(clip[0], other) for other in clip[1:])
    assert not torch.allclose(out[0], out[4], atol=1)
    assert not torch.allclose(out[4], out[8], atol=1)


def test_the_seed_decides() -> None:
    images = smooth_images(6)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(augment_clips(images, AUGMENTATIONS["full"], clip_length=1))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_certain_flip_mirrors() -> None:
    images = smooth_images(3)
    flipped = augment_clips(images, Augmentation(**{**_off(), "flip": 1.0}), clip_length=1)
    torch.testing.assert_close(flipped, images.flip(-1), atol=1e-2, rtol=1e-4)


def test_hue_keeps_each_pixels_mean_and_jitter_stays_in_range() -> None:
    images = smooth_images(3) * 0.5 + 60  # room on both sides, so that nothing is clipped
    turned = augment_clips(images, Augmentation(**{**_off(), "hue": 0.05}), clip_length=1)
    torch.testing.assert_close(turned.mean(dim=1), images.mean(dim=1), atol=1e-2, rtol=1e-4)
    assert (turned - images).abs().max() > 1
    wild = augment_clips(smooth_images(3), Augmentation(jitter=0.9), clip_length=1)
    assert wild.min() >= 0
    assert wild.max() <= 255


def test_mixed_precision_does_not_blur_the_geometry() -> None:
    images = smooth_images(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = augment_clips(images, NONE, clip_length=1)
    torch.testing.assert_close(out, images, atol=1e-2, rtol=1e-4)


def _off() -> dict[str, float]:
    return {name: getattr(NONE, name) for name in NONE.__dataclass_fields__}

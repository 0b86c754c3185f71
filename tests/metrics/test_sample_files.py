import numpy as np
import torch
from PIL import Image

from inside_cnn.metrics import sampling
from inside_cnn.metrics.sample_files import write_npz, write_pngs


def test_files(tmp_path):
    labels = sampling.sample_labels(5, [3, 7])
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    write_pngs(images, labels, [f"c{k}" for k in range(10)], tmp_path / "png")
    files = sorted(str(p.relative_to(tmp_path / "png")) for p in tmp_path.rglob("*.png"))
    assert files == [
        "3_c3/000000.png",
        "3_c3/000002.png",
        "3_c3/000004.png",
        "7_c7/000001.png",
        "7_c7/000003.png",
    ]
    pixels = np.asarray(Image.open(tmp_path / "png" / "7_c7" / "000003.png"))
    assert np.array_equal(pixels, images[3].permute(1, 2, 0).numpy())
    write_npz(images, labels, tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1).numpy())
        assert arrays["arr_1"].tolist() == [3, 7, 3, 7, 3]

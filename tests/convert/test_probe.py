"""The study's reconstruction probe against the same network in PyTorch."""

import json

import jax
import numpy as np
import pytest

ATOL = 1e-6  # measured 2e-7, outputs up to 0.9


def test_the_imported_probe_computes_what_timms_does(convert, torch, probe, probe_file, tmp_path):
    said = convert("import", probe_file, tmp_path / "probe.npz")
    assert "24 -> 12 -> 192" in said
    with np.load(tmp_path / "probe.npz", allow_pickle=False) as file:
        arrays = dict(file)
    tokens = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    hidden = tokens @ arrays["fc1/kernel"] + arrays["fc1/bias"][None]
    ours = jax.nn.gelu(hidden, approximate=False) @ arrays["fc2/kernel"] + arrays["fc2/bias"][None]
    with torch.inference_mode():
        theirs = probe(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
    info = json.loads(str(arrays["info"]))
    assert info["checkpoint_type"] == "best"
    assert info["file"] == "probe.pth"
    assert len(info["sha256"]) == 64


def test_a_probe_is_one_file_and_never_replaces_another(convert, refused, probe_file, tmp_path):
    assert f"{tmp_path / 'out'}.npz" in refused("import", probe_file, tmp_path / "out")
    convert("import", probe_file, tmp_path / "probe.npz")
    assert "exists already" in refused("import", probe_file, tmp_path / "probe.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["probe.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["fc2.bias"].__setitem__(3, float("nan")), "not finite: fc2.bias"),
        (lambda state: state.update({"fc1.bias": state["fc1.bias"][:5]}), "fc1.bias (5,)"),
    ],
    ids=["not a number", "layers that do not fit"],
)
def test_a_broken_probe_is_refused(refused, torch, probe_file, tmp_path, change, message):
    content = torch.load(probe_file)
    change(content["model_state_dict"])
    torch.save(content, tmp_path / "broken.pth")
    assert message in refused("import", tmp_path / "broken.pth", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()

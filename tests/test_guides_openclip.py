"""Guides of open_clip: activation and preprocessing are those of the tag, without any weights."""
import json
from dataclasses import asdict

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from PIL import Image, ImageOps

from clip_help_simclr import guides
from clip_help_simclr.guides import OpenCLIPGuide

_SMALL = dict(embed_dim=32, vision_cfg=dict(image_size=64, layers=2, width=64, patch_size=16, head_width=32),
              text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1))


def small(**changes):
    config = json.loads(json.dumps(_SMALL))
    for key, value in changes.items():
        if isinstance(value, dict): config[key].update(value)
        else: config[key] = value
    return config


MODELS = {
    "quickgelu": (small(quick_gelu=True), {}),
    "siglip": (small(init_logit_bias=-10.0, custom_text=True),
               dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="squash")),
    "resnet": (small(vision_cfg=dict(layers=[1, 1, 1, 1], width=16, patch_size=None)), {}),
    "timm": (small(vision_cfg=dict(timm_model_name="resnet18", timm_model_pretrained=False, timm_pool="avg", timm_proj="linear")),
             dict(interpolation="bilinear", resize_mode="shortest")),
    "longest": (small(), dict(resize_mode="longest", fill_color=0)),
}


def no_download(monkeypatch):
    monkeypatch.setattr(guides, "_unreachable", lambda url: "")


def test_every_pair_has_the_activation_and_preprocessing_of_its_tag(monkeypatch):
    no_download(monkeypatch)
    asked = {}

    def create_model(model, pretrained, **settings):
        asked.update(settings)
        raise RuntimeError("seen")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    forced, pairs = 0, open_clip.list_pretrained()
    for model, tag in pairs:
        asked.clear()
        with pytest.raises(FileNotFoundError, match="seen"): OpenCLIPGuide(model, tag, device="cpu")
        config = open_clip.get_pretrained_cfg(model, tag)
        assert asked["quick_gelu"] is bool(config.get("quick_gelu", False)), (model, tag)
        wanted = merge_preprocess_dict(asdict(PreprocessCfg()), config)
        found = merge_preprocess_dict(asdict(PreprocessCfg()), asked["force_preprocess_cfg"])
        assert {**found, "size": 0} == {**wanted, "size": 0}, (model, tag)
        of_model = bool(open_clip.get_model_config(model).get("quick_gelu", False))
        suffix = guides._other_activation(model, tag)
        assert suffix == ("" if of_model == asked["quick_gelu"] else "+quickgelu" if asked["quick_gelu"] else "+gelu")
        forced += bool(suffix)
    assert len(pairs) > 150 and forced >= 28


def activations(model):
    return {type(m).__name__ for m in model.visual.modules() if type(m).__name__ in ("GELU", "QuickGELU")}


@pytest.mark.parametrize("quick", [True, False])
def test_the_model_is_built_as_the_tag_says(monkeypatch, quick):
    no_download(monkeypatch)
    config = small(quick_gelu=not quick)
    tag = dict(url="https://example.org/w.pt", quick_gelu=quick, mean=(0.5,) * 3, std=(0.25,) * 3,
               interpolation="bilinear", resize_mode="squash")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-test", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-test", dict(some_tag=tag))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *a, **k: "weights.pt")
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *a, **k: None)
    guide = OpenCLIPGuide("small-test", "some_tag", device="cpu")
    assert activations(guide.model) == {"QuickGELU" if quick else "GELU"}
    found = guide.model.visual.preprocess_cfg
    assert {k: found[k] for k in ("mean", "std", "interpolation", "resize_mode")} == {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode")}
    assert guide.image_size == 64 and ("+quickgelu" if quick else "+gelu") in guide.name


def folder_of(name, where):
    config, preprocess = MODELS[name]
    folder = where / name
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg=preprocess)))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def files(where):
    rng = np.random.default_rng(0)

    def picture(width, height, channels):
        coarse = rng.integers(0, 256, (7, 5, channels), dtype=np.uint8).squeeze()
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    picture(97, 61, 3).save(where / "wide.png")
    picture(50, 143, 3).save(where / "tall.png")
    picture(64, 64, 3).save(where / "square.png")
    picture(90, 70, 1).save(where / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(80, 66, 3).save(where / "turned.jpg", exif=turned, quality=95)
    picture(75, 88, 3).convert("CMYK").save(where / "cmyk.jpg", quality=95)
    rgba = picture(71, 83, 4)
    rgba.save(where / "rgba.png")
    return [where / name for name in ("wide.png", "tall.png", "square.png", "grey.png", "turned.jpg", "cmyk.jpg", "rgba.png")]


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_equal_open_clip(name, tmp_path):
    """The same pixels: upright (open_clip ignores EXIF) and without alpha (open_clip drops it, we lay RGBA on white)."""
    folder = folder_of(name, tmp_path)
    guide = OpenCLIPGuide.from_spec(f"local-dir:{folder}", device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert name != "quickgelu" or activations(guide.model) == {"QuickGELU"}
    for path in files(tmp_path):
        image = ImageOps.exif_transpose(Image.open(path))
        pixels = np.array(image if image.mode in ("L", "RGBA") else image.convert("RGB"))
        tensor = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None]
        flat = image
        if image.mode == "RGBA": flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if name == "longest": flat = flat.convert("RGB")  # open_clip pads before it converts: 0 is white in CMYK
        with torch.no_grad(): wanted = model.eval().encode_image(transform(flat)[None], normalize=True)
        cosine = float((guide.encode(tensor) * wanted).sum())
        assert cosine >= 0.999, (path.name, cosine)


def test_specs(tmp_path, monkeypatch):
    folder = folder_of("quickgelu", tmp_path)
    weights = folder / "open_clip_pytorch_model.bin"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-test", MODELS["quickgelu"][0])
    (tmp_path / "small-test").mkdir()
    (tmp_path / "small-test" / "weights.bin").write_bytes(weights.read_bytes())
    monkeypatch.chdir(tmp_path)
    by_path = OpenCLIPGuide.from_spec("small-test/weights.bin", device="cpu")
    assert by_path.name == OpenCLIPGuide("small-test", "small-test/weights.bin", device="cpu").name
    assert by_path.name.startswith("openclip:small-test/weights.bin:")
    for bad in ("", "ViT-B-32", "ViT-B-32/", "/openai", "local-dir:", "nonsense/openai", "ViT-B-32/nonsense", None, 3):
        with pytest.raises(ValueError): OpenCLIPGuide.from_spec(bad)
    with pytest.raises(FileNotFoundError, match="open_clip_config.json"): OpenCLIPGuide.from_spec("local-dir:/nowhere")


def test_without_a_network_the_error_comes_before_any_downloader(monkeypatch):
    monkeypatch.setattr(guides, "_unreachable", lambda url: "no network")
    monkeypatch.setattr(guides, "_is_cached", lambda tag: False)
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("a download was tried"))
    with pytest.raises(FileNotFoundError, match="could not be fetched .no network.*copy the file"): OpenCLIPGuide("ViT-B-32", "openai")
    with pytest.raises(FileNotFoundError, match="could not be fetched"): OpenCLIPGuide.from_spec("hf-hub:nobody/nothing")


def test_channels(tmp_path):
    guide = OpenCLIPGuide(f"local-dir:{folder_of('quickgelu', tmp_path)}", device="cpu")
    grey = torch.rand(2, 1, 40, 30)
    assert torch.equal(guide.encode(grey), guide.encode(grey.repeat(1, 3, 1, 1)))
    hidden = torch.cat([torch.rand(2, 3, 40, 30), torch.zeros(2, 1, 40, 30)], 1)
    assert torch.equal(guide.encode(hidden), guide.encode(torch.ones(2, 3, 40, 30)))
    for bad in (None, [1], np.zeros((1, 3, 8, 8)), torch.rand(3, 8, 8), torch.rand(1, 2, 8, 8), torch.ones(1, 3, 8, 8, dtype=torch.int64),
                torch.full((1, 3, 8, 8), torch.nan), torch.full((1, 3, 8, 8), 2.0), torch.ones(1, 3, 8, 8, dtype=torch.bool)):
        with pytest.raises(ValueError, match="images"): guide.encode(bad)
    for bad in ("text", None, [], [1], ["a", None], 3):
        with pytest.raises(ValueError, match="texts"): guide.encode_text(bad)

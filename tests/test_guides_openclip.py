"""open_clip models as guides: activation and preprocessing are those of the weights, for everything that open_clip offers, and embeddings are open_clip's own."""
import json
import warnings
from types import SimpleNamespace
from unittest.mock import patch

import numpy
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import nn

from clip_help_simclr.core import generator
from clip_help_simclr.data import load_data
from clip_help_simclr.guides import CaptionGuide, LabelGuide, OpenCLIPGuide, TextInducedGuide, TextTowerGuide, clip_settings
from clip_help_simclr.guides.clip import _load_open_clip

PAIRS = open_clip.list_pretrained()


class Recorder(nn.Module):
    "Stands in for a model of any size, and remembers what it was made with."
    def __init__(self, **settings):
        super().__init__()
        self.settings, self.visual = settings, nn.Module()
        vision = settings["vision_cfg"]
        self.visual.image_size = vision.get("image_size", 224)


def loaded(model, pretrained, settings=None):
    "What open_clip's own factory makes of our call: the model's settings and its preprocessing. Nothing is downloaded or allocated."
    factory = "open_clip.factory"
    with patch(f"{factory}.CLIP", Recorder), patch(f"{factory}.CustomTextCLIP", Recorder), patch(f"{factory}.CoCa", Recorder), \
         patch(f"{factory}.download_pretrained", lambda *args, **options: "weights"), patch(f"{factory}.load_checkpoint", lambda *args, **options: None), \
         patch("clip_help_simclr.encoders._connected", lambda: False):
        made = _load_open_clip(model, pretrained, settings)
    return made.settings.get("quick_gelu", False), made.visual.preprocess_cfg


def wanted(model, tag):
    cfg = open_clip.get_pretrained_cfg(model, tag)
    return cfg.get("quick_gelu", False), merge_preprocess_dict(PreprocessCfg(), cfg)


def same_preprocessing(found, expected):
    return {k: v for k, v in found.items() if k != "size"} == {k: v for k, v in expected.items() if k != "size"}


def test_every_tag_gets_its_own_settings():
    assert len(PAIRS) > 150
    contradicted = 0
    for model, tag in PAIRS:
        quick_gelu, preprocessing = wanted(model, tag)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a tag leaves nothing to be warned of
            found = loaded(model, tag)
        assert found[0] == quick_gelu, (model, tag)
        assert same_preprocessing(found[1], preprocessing), (model, tag)
        assert found[1]["size"] == open_clip.get_model_config(model)["vision_cfg"].get("image_size", 224), (model, tag)
        contradicted += quick_gelu != open_clip.get_model_config(model).get("quick_gelu", False)
    assert contradicted >= 20  # the model's configuration says otherwise: this is what the test is for


def test_every_tag_s_settings_for_a_file(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    for model, tag in PAIRS:
        quick_gelu, preprocessing = wanted(model, tag)
        found = loaded(model, str(file), tag)
        assert found[0] == quick_gelu and same_preprocessing(found[1], preprocessing), (model, tag)


def test_a_file_alone_gets_the_model_s_settings_and_a_warning_where_tags_differ(tmp_path):
    file = str(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").touch()
    with pytest.warns(UserWarning, match="GELU and the preprocessing of ViT-B-32; the tags openai.*TAG=FILE"): assert not clip_settings("ViT-B-32", file).quick_gelu
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        siglip = clip_settings("ViT-B-16-SigLIP", file)  # its tags agree
    assert siglip.preprocessing["mean"] == (0.5, 0.5, 0.5) and siglip.preprocessing["resize_mode"] == "squash"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert clip_settings("ViT-B-32-quickgelu", file).quick_gelu
        for model in open_clip.list_models():
            assert clip_settings(model, file).quick_gelu == open_clip.get_model_config(model).get("quick_gelu", False)


def test_real_models_have_the_activation():
    "One of each kind, built for real (without memory for its weights)."
    for model, tag, quick in (("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False), ("RN50", "openai", True), ("ViT-B-16", "metaclip_400m", True)):
        with torch.device("meta"), patch("open_clip.factory._set_model_device_and_precision", lambda *a, **k: None), patch("open_clip.factory.download_pretrained", lambda *a, **k: "weights"), patch("open_clip.factory.load_checkpoint", lambda *a, **k: None):
            made = _load_open_clip(model, tag)
        activations = {type(module).__name__ for module in made.modules() if "GELU" in type(module).__name__}
        assert activations == {"QuickGELU" if quick else "GELU"}, (model, tag, activations)


TEXT = dict(context_length=8, vocab_size=49408, width=32, heads=1, layers=1)
SMALL = dict(
    quick_gelu=dict(config=dict(embed_dim=32, quick_gelu=True, vision_cfg=dict(image_size=64, layers=2, width=64, head_width=32, patch_size=8), text_cfg=TEXT), preprocessing={}),
    siglip=dict(config=dict(embed_dim=32, init_logit_bias=-10, custom_text=True, vision_cfg=dict(image_size=224, timm_model_name="vit_tiny_patch16_224", timm_pool="", timm_proj="linear"), text_cfg=TEXT),
                preprocessing=dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="squash")),
    resnet=dict(config=dict(embed_dim=32, vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=16, patch_size=None), text_cfg=TEXT), preprocessing=dict(interpolation="bilinear")),
    timm=dict(config=dict(embed_dim=32, vision_cfg=dict(image_size=64, timm_model_name="resnet10t", timm_pool="avg", timm_proj="linear"), text_cfg=TEXT), preprocessing=dict(resize_mode="longest", fill_color=0)),
)


@pytest.fixture(scope="module", params=SMALL)
def model(request, tmp_path_factory):
    "A small model with random weights in a folder, as open_clip saves it."
    folder, small = tmp_path_factory.mktemp(request.param), SMALL[request.param]
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=small["config"], preprocess_cfg=small["preprocessing"])))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    return SimpleNamespace(name=f"local-dir:{folder}", kind=request.param)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Smooth pictures in all that image files come in; not so large that the decoder reads them at a reduced size."
    folder = tmp_path_factory.mktemp("files") / "kind"
    folder.mkdir()
    def picture(height, width, channels, stream):
        coarse = torch.rand(1, channels, 5, 6, generator=generator(0, stream))
        pixels = (F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)[0]
        return pixels.permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(picture(97, 61, 3, "tall")).save(folder / "tall.png")
    Image.fromarray(picture(70, 111, 3, "wide")).save(folder / "wide.jpg", quality=95)
    Image.fromarray(picture(83, 83, 1, "grey")).save(folder / "grey.png")
    rgba = Image.fromarray(picture(90, 75, 3, "rgba")).convert("RGBA")
    rgba.save(folder / "opaque.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(picture(66, 101, 3, "exif")).save(folder / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(picture(99, 71, 3, "cmyk")).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(picture(40, 50, 3, "small")).save(folder / "small.png")
    return folder


def of_open_clip(name, paths):
    made, _, transform = open_clip.create_model_and_transforms(name)
    images = torch.stack([transform(ImageOps.exif_transpose(Image.open(path))) for path in paths])
    with torch.no_grad(): return F.normalize(made.eval().encode_image(images), dim=1)


def test_embeddings_are_open_clip_s(model, files):
    "Whole images, of any shape."
    guide, paths = OpenCLIPGuide(model.name, device="cpu"), sorted(files.iterdir())
    expected = of_open_clip(model.name, paths)
    for path, row in zip(paths, expected):
        if path.name == "cmyk.jpg" and model.kind == "timm": continue  # open_clip pads before it converts, and 0 is white in CMYK
        pixels = torch.from_numpy(numpy.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))).permute(2, 0, 1)
        assert (guide.encode(pixels[None])[0] * row).sum() > 0.999, path.name


def test_embeddings_of_a_folder_are_open_clip_s(model, files):
    "A data set holds squares: the same for models that cut the middle out, and for square files."
    guide = OpenCLIPGuide(model.name, device="cpu")
    data = load_data(f"folder:{files.parent}", size=guide.image_size, progress=False)
    assert guide.image_size == (224 if model.kind == "siglip" else 64)
    for part in data:
        paths = [files.parent / name for name in part.ids]
        rows, expected = guide.embed(part, progress=False), of_open_clip(model.name, paths)
        for path, row, other in zip(paths, rows, expected):
            if model.kind in ("quick_gelu", "resnet") or path.name == "grey.png": assert (row * other).sum() > 0.999, path.name


def test_channels():
    class Brightness(nn.Module):
        visual = SimpleNamespace(preprocess_cfg=dict(size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", resize_mode="shortest", fill_color=0), state_dict=dict)
        def encode_image(self, images): return images.mean((2, 3)) + 1e-3
    guide = OpenCLIPGuide.__new__(OpenCLIPGuide)
    guide._wrap(Brightness(), "brightness", "cpu", None)
    grey = torch.full((1, 1, 8, 8), 51, dtype=torch.uint8)
    torch.testing.assert_close(guide.encode(grey), guide.encode(grey.expand(-1, 3, -1, -1)))
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    half = torch.cat([red, torch.full((1, 1, 8, 8), 0.5)], 1)
    torch.testing.assert_close(guide.encode(half), guide.encode(0.5 * red + 0.5))
    hidden = torch.cat([red, torch.zeros(1, 1, 8, 8)], 1)  # transparent: white
    torch.testing.assert_close(guide.encode(hidden), guide.encode(torch.ones(1, 3, 8, 8)))


@pytest.mark.parametrize("images, error", [
    (torch.zeros(1, 2, 8, 8), "one or four channels"), (torch.zeros(3, 8, 8), "one or four channels"), (torch.full((1, 3, 8, 8), torch.nan), "NaN"),
    (torch.full((1, 3, 8, 8), 7.0), "floats in"), (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8, or floats"), (torch.zeros(1, 3, 8, 8).numpy(), "tensor"), ([1], "tensor"), (None, "tensor")])
def test_wrong_images(images, error):
    guide = OpenCLIPGuide.__new__(OpenCLIPGuide)
    guide.device = torch.device("cpu")
    with pytest.raises((ValueError, TypeError), match=f"images: .*{error}"): guide.encode(images)


@pytest.mark.parametrize("text, names", [
    ("ViT-B-32/openai", ("ViT-B-32", "openai", None)), ("ViT-B-32/openai=a/b.pt", ("ViT-B-32", "a/b.pt", "openai")), ("local-dir:/a/b/c", ("local-dir:/a/b/c", None, None)),
    ("hf-hub:organization/name", ("hf-hub:organization/name", None, None)), ("ViT-B-32/folder/weights.safetensors", ("ViT-B-32", "folder/weights.safetensors", None))])
def test_specs(text, names):
    with patch.object(OpenCLIPGuide, "__init__", lambda self, model, pretrained=None, device="auto", settings=None: self.__dict__.update(said=(model, pretrained, settings))):
        assert OpenCLIPGuide.from_spec(text).said == names


def test_a_spec_that_is_one_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ViT-B-32").mkdir()
    (tmp_path / "ViT-B-32" / "weights.safetensors").touch()
    with patch.object(OpenCLIPGuide, "__init__", lambda self, *args: self.__dict__.update(said=args)):
        assert OpenCLIPGuide.from_spec("ViT-B-32/weights.safetensors").said[:2] == ("ViT-B-32", "ViT-B-32/weights.safetensors")
        (tmp_path / "weights.safetensors").touch()  # the nearer meaning
        assert OpenCLIPGuide.from_spec("ViT-B-32/weights.safetensors").said[:2] == ("ViT-B-32", "weights.safetensors")


@pytest.mark.parametrize("text, says", [
    ("ViT-B-32", "expected MODEL/TAG"), ("", "expected MODEL/TAG"), (None, "expected MODEL/TAG"), ("/openai", "expected MODEL/TAG"), ("local-dir:", "names nothing"), ("hf-hub:noslash", "ORGANIZATION/NAME"), ("hf-hub:", "names nothing"),
    ("ViT-B-23/openai", "Did you mean 'ViT-B-32'"), ("ViT-B-32/nothing", "neither a local file nor a tag"), ("ViT-B-32/nothing=none.pt", "neither a local file nor a tag"), ("local-dir:/no/where", "no folder")])
def test_wrong_specs(text, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says): OpenCLIPGuide.from_spec(text, device="cpu")


def test_offline_is_said_at_once():
    "Without a connection the hub's client is not asked at all, and the error names the mend."
    with patch("clip_help_simclr.encoders._connected", lambda: False), patch("socket.socket.connect", side_effect=AssertionError("a connection was tried")):
        for text in ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k", "hf-hub:organization/name"):
            with pytest.raises(FileNotFoundError, match="not on this machine.*Download them"): OpenCLIPGuide.from_spec(text, device="cpu")


@pytest.fixture(scope="module")
def caption_guide(tmp_path_factory):
    path = tmp_path_factory.mktemp("guide") / "guide.safetensors"
    CaptionGuide.train(load_data("digits").train, share=0.02, epochs=1, device="cpu", progress=False).save(path)
    return path


def variants(value):
    "Bad values for a field of a header."
    yield from (None, [], {}, "hf-hub:organization/name", "local-dir:/", -1, 0, 1.5, 10 ** 9, True, "x" * 1000)


def spoiled(head):
    "A header with one field changed, for each field and each bad value; and with one missing."
    def walk(node, path=()):
        for key, value in node.items():
            yield (*path, key)
            if isinstance(value, dict) and key != "facts": yield from walk(value, (*path, key))
    for path in walk(head):
        if path[0] == "facts" and len(path) > 1: continue
        for value in [*variants(None), "absent"]:
            changed = json.loads(json.dumps(head))
            node = changed
            for key in path[:-1]: node = node[key]
            if value == "absent": del node[path[-1]]
            elif node[path[-1]] == value or (path == ("facts",) and isinstance(value, dict)): continue
            else: node[path[-1]] = value
            yield path, value, changed


def test_a_caption_guide_s_header_is_checked(caption_guide, tmp_path):
    from safetensors import safe_open
    with safe_open(caption_guide, "pt") as f:
        head, tensors = json.loads(f.metadata()["caption_guide"]), {k: f.get_tensor(k) for k in f.keys()}
    assert CaptionGuide.load(caption_guide, "cpu").facts["captioned"] > 0
    path, tried = tmp_path / "spoiled.safetensors", 0
    with patch("open_clip.create_model", side_effect=AssertionError("a model was built")):
        for where, value, changed in spoiled(head):
            save_file(tensors, path, {"caption_guide": json.dumps(changed)})
            with pytest.raises(ValueError, match="path: "): CaptionGuide.load(path, "cpu")
            tried += 1
    assert tried > 100
    for spoil in (lambda t: t.pop("vocabulary"), lambda t: t.update(vocabulary=t["vocabulary"].flip(0)), lambda t: t.update(vocabulary=t["vocabulary"].float()), lambda t: t.update(vocabulary=t["vocabulary"][:5].clone()),
                  lambda t: t.pop(next(k for k in t if k != "vocabulary")), lambda t: t.update({"visual.trunk.layers.0.weight": torch.zeros(3)})):
        other = dict(tensors)
        spoil(other)
        save_file(other, path, {"caption_guide": json.dumps(head)})
        with pytest.raises(ValueError, match="path: "): CaptionGuide.load(path, "cpu")


@pytest.mark.parametrize("call", [
    lambda: TextInducedGuide.from_captions(None), lambda: TextInducedGuide.from_captions(["a"]), lambda: LabelGuide().embed(None), lambda: CaptionGuide.train(None), lambda: CaptionGuide.load(None), lambda: CaptionGuide.load(5),
    lambda: OpenCLIPGuide("ViT-B-32", 5), lambda: OpenCLIPGuide("ViT-B-32", []), lambda: OpenCLIPGuide("ViT-B-32", True), lambda: OpenCLIPGuide(None, "openai"), lambda: OpenCLIPGuide("", "openai"), lambda: TextTowerGuide(None)])
def test_wrong_arguments(call):
    with pytest.raises((ValueError, TypeError), match=r"^(data|path|pretrained|model|guide): expected"): call()


def test_an_unreadable_image_has_no_posterior_and_stops_no_other(caption_guide):
    guide, data = CaptionGuide.load(caption_guide, "cpu"), load_data("digits").train.subset(torch.arange(40))
    texts, embed = ["zero", "one", "two"], CaptionGuide.embed
    alone = TextInducedGuide.zero_shot(guide, data.subset(torch.arange(1, 40)), texts, progress=False)
    def without_the_first(self, *arguments):
        rows = embed(self, *arguments)
        rows[0] = torch.nan
        return rows
    with patch.object(CaptionGuide, "embed", without_the_first): found = TextInducedGuide.zero_shot(guide, data, texts, progress=False)
    assert found.missing.tolist() == [0]
    torch.testing.assert_close(found[torch.arange(1, 40)], alone[torch.arange(39)])

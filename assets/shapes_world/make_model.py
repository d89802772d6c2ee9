"""Make the bundled model from nothing: pictures, VAE, decoder, UNet with text encoder, export for diffusers.

Run from the repository's root: `python -m assets.shapes_world.make_model --out assets/shapes`. Each stage
keeps its state under --work and is skipped or taken up there when the command is started again.
`--export-only` writes the model as it stands in the middle of training.
"""

import argparse
import ctypes
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from assets.shapes_world import networks, training
from assets.shapes_world.world import draw_scenes, make_dataset, split_prompts


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("shapes-training"), help="folder of states")
    parser.add_argument("--images", type=int, default=12_000, help="synthetic pictures to train on")
    parser.add_argument("--vae-steps", type=int, default=3_000)
    parser.add_argument("--decoder-steps", type=int, default=1_500)
    parser.add_argument("--unet-steps", type=int, default=7_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--until", choices=("vae", "decoder", "unet"), default="unet", help="last stage to run")
    parser.add_argument("--export-only", action="store_true", help="export states as they are")
    return parser.parse_args()


def keep_freed_memory() -> None:
    """Tell glibc, where that is the allocator, to keep freed blocks: steps on the CPU are then much faster."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)
        mallopt(mmap_threshold, 2**25)


def prepare_vae(args: argparse.Namespace) -> AutoencoderKL:
    """Train the VAE, or load the one that is finished, with its latent statistics folded in."""
    folder = args.work / "vae"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder, local_files_only=True)
    pictures, _ = make_dataset(args.images, args.seed)
    torch.manual_seed(args.seed)
    vae = networks.make_vae()
    training.train_vae(vae, pictures, args.vae_steps, args.seed, args.work / "vae.pt")
    latents = training.encode_all(vae.eval(), pictures)
    axes = (0, 2, 3)
    mean, std = latents.mean(axes), latents.std(axes)
    networks.fold_latent_statistics(vae, mean, std)
    print(f"latents: mean {mean.tolist()}, std {std.tolist()}, scaling {vae.config.scaling_factor}")
    vae.save_pretrained(folder)
    return vae


def prepare_latents(args: argparse.Namespace, vae: AutoencoderKL) -> torch.Tensor:
    """Return the pictures' latents, not scaled, from a file where they were computed before."""
    file = args.work / "latents.safetensors"
    if not file.exists():
        pictures, _ = make_dataset(args.images, args.seed)
        save_file({"latents": training.encode_all(vae.eval(), pictures).contiguous()}, file)
    return load_file(file)["latents"]


def refine_decoder(args: argparse.Namespace, vae: AutoencoderKL) -> AutoencoderKL:
    """Train the decoder on, or load the VAE for which that is finished."""
    folder = args.work / "vae-refined"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder, local_files_only=True)
    if args.export_only:
        return vae
    latents = prepare_latents(args, vae)
    pictures, _ = make_dataset(args.images, args.seed)
    state = args.work / "decoder.pt"
    training.refine_decoder(vae, latents, pictures, args.decoder_steps, args.seed + 3, state)
    vae.save_pretrained(folder)
    return vae


def make_pipeline(args: argparse.Namespace, vae: AutoencoderKL) -> StableDiffusionPipeline:
    """Return a pipeline with an untrained, seeded UNet and text encoder."""
    torch.manual_seed(args.seed + 1)
    tokenizer = networks.write_tokenizer(args.work / "tokenizer")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=networks.make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=networks.make_unet(),
        scheduler=networks.make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train(args: argparse.Namespace, pipeline: StableDiffusionPipeline) -> None:
    """Train the pipeline's UNet and text encoder."""
    latents = prepare_latents(args, pipeline.vae) * pipeline.vae.config.scaling_factor
    scenes = draw_scenes(args.images, np.random.default_rng(args.seed))

    def tokenize(texts: list[str]) -> torch.Tensor:
        options = {"padding": "max_length", "max_length": networks.TEXT_LENGTH, "return_tensors": "pt"}
        return pipeline.tokenizer(texts, **options).input_ids

    training.train_unet(
        pipeline.unet,
        pipeline.text_encoder,
        pipeline.scheduler,
        latents,
        tokenize([scene.prompt for scene in scenes]),
        tokenize([""])[0],
        steps=args.unet_steps,
        seed=args.seed + 2,
        state=args.work / "unet.pt",
    )


def load_average(args: argparse.Namespace, pipeline: StableDiffusionPipeline) -> None:
    """Give the pipeline the averaged weights of the training's last state."""
    saved = torch.load(args.work / "unet.pt", weights_only=True)
    both = nn.ModuleDict({"unet": pipeline.unet, "text": pipeline.text_encoder})
    both.load_state_dict(saved["average"])
    print(f"state after step {saved['done']}", flush=True)


def export(args: argparse.Namespace, pipeline: StableDiffusionPipeline) -> None:
    """Write the model in diffusers' format with fp16 weights, its tokenizer and the two prompt lists."""
    pipeline.to(torch.float16).save_pretrained(args.out, safe_serialization=True)
    networks.write_tokenizer(args.out / "tokenizer")
    (args.out / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    for weights in args.out.glob("*/*.safetensors"):
        weights.chmod(0o644)
    for config in args.out.glob("*/config.json"):
        entries = json.loads(config.read_text())
        entries.pop("_name_or_path", None)
        if "dtype" in entries:  # transformers loads a model in the dtype named here: be float32 like the others
            entries["dtype"] = "float32"
        config.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
    for name, prompts in zip(("train", "heldout"), split_prompts(), strict=True):
        (args.out / f"prompts-{name}.txt").write_text("\n".join(prompts) + "\n")


def main() -> None:
    """Run the stages in order."""
    args = parse_arguments()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = prepare_vae(args)
    if args.until == "vae":
        return
    vae = refine_decoder(args, vae)
    if args.until == "decoder":
        return
    pipeline = make_pipeline(args, vae)
    if not args.export_only:
        train(args, pipeline)
    load_average(args, pipeline)
    export(args, pipeline)


if __name__ == "__main__":
    main()

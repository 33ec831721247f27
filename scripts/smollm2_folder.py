#!/usr/bin/env python3
"""Saves the SmolLM2 GGUF file of scripts/fetch_smollm2.sh as a Hugging Face folder, SmolLM2-135M-Instruct-hf beside it.

    python smollm2_folder.py MODELS        # MODELS holds the GGUF file; needs tests/fixtures/parity/requirements.txt
"""

import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main():
    models = pathlib.Path(sys.argv[1])
    folder = models / "SmolLM2-135M-Instruct-hf"
    if (folder / "model.safetensors").exists():
        print(f"{folder}: already there")
        return
    model = AutoModelForCausalLM.from_pretrained(
        models, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # Some versions of transformers keep it, and would write weights that are no longer quantized as if they were.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # Weights last: with them the folder is complete.
    AutoTokenizer.from_pretrained(models, gguf_file=GGUF).save_pretrained(folder)
    model.save_pretrained(folder)
    print(f"{folder}: done")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What scripts/check_gpu.sh compares and times; one subcommand each, see their functions.

Needs nothing beyond Python for runs, gradients, same and speed; pyarrow for scores; PyTorch and transformers (peft for
LoRA) for model and torch.
"""

import array
import json
import math
import random
import statistics
import struct
import sys
import time
from pathlib import Path

# Largest difference of a loss to the CPU's at any of twenty steps, over the larger of 1 and the loss.
LOSS = {"gpu": 2e-3, "half": 5e-2}
# Largest difference of the final accuracy over test pairs, in pairs.
PAIRS = {"gpu": 1.5, "half": 4.5}
# Response tokens of a timed pair of 512, about what `texts` gives.
RESPONSE = 266
# Largest |g - g'| / |g'| of any tensor's gradient.
GRADIENT = 2e-3


def losses(run):
    lines = (json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def accuracy(run):
    summary = json.loads((Path(run) / "summary.json").read_text())
    return summary["eval_accuracy"], summary["n_eval"]


def far(found, wanted):
    """Largest difference over the larger of 1 and the number; infinite where there is nothing to compare."""
    if not wanted or len(found) != len(wanted):
        return math.inf
    return max(abs(a - b) / max(1, abs(b)) if math.isfinite(a) else math.inf for a, b in zip(found, wanted))


def listed(out):
    return [line.split("|") for line in (Path(out) / "combinations.txt").read_text().splitlines()]


def runs(out):
    """Losses step by step and final accuracy of every combination: GPU in float32 and bf16 against the CPU."""
    print(f"{'':34} {'loss, f32':>10} {'loss, bf16':>10} {'first and last, CPU':>20} {'accuracy: CPU, f32, bf16':>26}")
    bad = []
    for name, slug in listed(out):
        folder = Path(out) / slug
        try:
            wanted, (right, n) = losses(folder / "cpu"), accuracy(folder / "cpu")
        except (OSError, KeyError) as error:
            print(f"{name:34} the CPU's run has no result: {error}")
            bad.append(name)
            continue
        apart_by, rights = [], [right]
        for kind in ["gpu", "half"]:
            try:
                apart, got = far(losses(folder / kind), wanted), accuracy(folder / kind)[0]
            except (OSError, KeyError) as error:
                print(f"{name:34} {kind}: no result: {error}")
                apart, got = math.inf, math.nan
            fine = apart <= LOSS[kind] and abs(got - right) * n <= PAIRS[kind]
            apart_by.append(f"{apart:9.1e}{' ' if fine else '!'}")
            rights.append(got)
            if not fine:
                bad.append(f"{name} {kind}")
        ends = f"{wanted[0]:.4f} -> {wanted[-1]:.4f}"
        print(f"{name:34} {apart_by[0]:>10} {apart_by[1]:>10} {ends:>20} {', '.join(f'{x:.3f}' for x in rights):>26}")
    print(f"allowed: losses {LOSS['gpu']}, bf16 {LOSS['half']}; accuracy {PAIRS['gpu']} and {PAIRS['half']} test pairs")
    return bad


def tensors(path):
    """Tensors of a safetensors file, as arrays of float32."""
    raw = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    out = {}
    for name, about in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = about["data_offsets"]
            values = array.array("f")
            values.frombytes(raw[8 + size + start : 8 + size + end])
            out[name] = values
    return out


def gradients(out):
    """Every parameter's gradient after three steps: AdamW's first moment is their decayed sum."""
    print(f"{'':34} {'tensors':>8} {'worst |g - g_cpu| / |g_cpu|':>28}  of")
    bad = []
    for name, slug in listed(out):
        folder = Path(out) / slug
        try:
            newest = lambda run: max((folder / run / "checkpoints").glob("step-*")) / "optimizer.safetensors"
            cpu, gpu = tensors(newest("cpu-3")), tensors(newest("gpu-3"))
        except (OSError, ValueError) as error:
            print(f"{name:34} no checkpoint: {error}")
            bad.append(name)
            continue
        worst, of, compared = 0.0, "-", 0
        for tensor in sorted(set(cpu) | set(gpu)):
            if not tensor.startswith("first."):
                continue
            a, b = gpu.get(tensor), cpu.get(tensor)
            if a is None or b is None or len(a) != len(b):
                worst, of = math.inf, tensor
                break
            size = math.sqrt(sum(y * y for y in b))
            apart = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))
            compared += 1
            # Tensors without a gradient (of a warm-up's start, say) must have none on both sides.
            share = apart / size if size > 1e-9 else (math.inf if apart > 1e-8 else 0.0)
            if not math.isfinite(share) or share > worst:
                worst, of = (share if math.isfinite(share) else math.inf), tensor
        fine = compared > 0 and worst <= GRADIENT
        print(f"{name:34} {compared:8} {worst:27.1e}{' ' if fine else '!'}  {of.removeprefix('first.')}")
        if not fine:
            bad.append(name)
    print(f"allowed: {GRADIENT}")
    return bad


def same(run, whole):
    """Losses and model files of a resumed run against one that was never stopped."""
    apart = far(losses(run), losses(whole))
    files = ["model/model.safetensors", "model/lpc_model.safetensors"]
    files = [f for f in files if (Path(whole) / f).exists()]
    bits = all((Path(run) / f).read_bytes() == (Path(whole) / f).read_bytes() for f in files)
    print(f"{Path(run).name}: losses apart by {apart:.1e}, model files {'the same bits' if bits else 'of other bits'}")
    return [] if apart <= 1e-4 else ["losses differ"]


def scores(scored, posteriors):
    """Log-probabilities of every pair: `score` on the CPU against what the run itself wrote."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        print("left out: no pyarrow")
        return []
    columns = {"logps_chosen", "logps_rejected"}
    tables = [parquet.read_table(path) for path in [scored, posteriors]]
    shared = sorted(columns & set(tables[0].column_names) & set(tables[1].column_names))
    if not shared:
        print(f"no columns to compare: {tables[0].column_names} {tables[1].column_names}")
        return ["columns"]
    by_id = [dict(zip(t["id"].to_pylist(), zip(*(t[c].to_pylist() for c in shared)))) for t in tables]
    ids = sorted(set(by_id[0]) & set(by_id[1]))
    apart = max(abs(a - b) / max(1, abs(b)) for i in ids for a, b in zip(by_id[0][i], by_id[1][i]))
    print(f"{len(ids)} pairs, {', '.join(shared)}: apart by {apart:.1e} (allowed: 1e-3)")
    return [] if ids and apart <= 1e-3 else ["scores differ"]


def memory(path):
    try:
        return f"{max(int(line) for line in Path(path).read_text().split()) / 1024:.1f} GiB"
    except (OSError, ValueError):
        return "?"


def shown(name, pairs, tokens, peak, rest):
    print(f"{name:18} {pairs:9.2f} pairs/s {tokens:10.0f} tokens/s, prompts once; peak {peak}; {rest}")


def speed(name, run, mib):
    """Medians over the steps but the first three, and peak memory of the GPU."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    lines = lines[3:] or lines
    of = lambda key: [v for line in lines for k, v in line.items() if k.endswith(key)]
    pairs, tokens = statistics.median(of("pairs_per_s")), statistics.median(of("tokens_per_s"))
    shown(name, pairs, tokens, memory(mib), f"loss {lines[-1]['loss']:.4f}")
    return []


def texts(path):
    """Pairs of about 246 prompt tokens, whose responses are longer than the rest of 512: preparation cuts them there."""
    rng = random.Random(1)
    word = lambda: "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    words = [word() for _ in range(900)]
    say = lambda n: " ".join(rng.choice(words) for _ in range(n)) + "."
    with open(path, "w") as file:
        for _ in range(72):
            print(json.dumps({"prompt": say(120), "chosen": say(400), "rejected": say(400)}), file=file)
    return []


SHAPES = {
    "smollm2": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                    intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True, rope_theta=100000.0),
    "llama3-8b": dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                      intermediate_size=14336, vocab_size=128256, tie_word_embeddings=False, rope_theta=500000.0),
    # To try this script out.
    "toy": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=128, vocab_size=4096, tie_word_embeddings=True, rope_theta=10000.0),
}


def weights(shape):
    """Names and shapes of a Llama's tensors."""
    h, f, v = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = h // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", (v, h)
    for i in range(shape["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (h,)
        yield at + "self_attn.q_proj.weight", (h, h)
        yield at + "self_attn.k_proj.weight", (kv, h)
        yield at + "self_attn.v_proj.weight", (kv, h)
        yield at + "self_attn.o_proj.weight", (h, h)
        yield at + "post_attention_layernorm.weight", (h,)
        yield at + "mlp.gate_proj.weight", (f, h)
        yield at + "mlp.up_proj.weight", (f, h)
        yield at + "mlp.down_proj.weight", (h, f)
    yield "model.norm.weight", (h,)
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (v, h)


def model(name, folder):
    """A model folder of a shape, with random weights in bf16."""
    import torch
    from safetensors.torch import save_file

    shape, folder = SHAPES[name], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    deviation = 0.02
    files, index, part, size = 0, {}, {}, 0

    def flush():
        nonlocal files, part, size
        files += 1
        file = f"model-{files}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        index.update({tensor: file for tensor in part})
        part, size = {}, 0

    for tensor, dims in weights(shape):
        if len(dims) == 1:
            values = torch.ones(dims, dtype=torch.bfloat16)
        else:
            values = (torch.randn(dims, device=device, dtype=torch.bfloat16) * deviation).cpu()
        part[tensor] = values
        size += 2 * values.numel()
        if size > 4 << 30:
            flush()
    if part:
        flush()
    if files == 1:
        (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    else:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    about = dict(shape, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", rms_norm_eps=1e-5,
                 max_position_embeddings=8192, torch_dtype="bfloat16", attention_bias=False, mlp_bias=False,
                 head_dim=shape["hidden_size"] // shape["num_attention_heads"], bos_token_id=1, eos_token_id=2)
    (folder / "config.json").write_text(json.dumps(about))
    return []


def torch_step(name, folder, batch, how):
    """The same step in plain PyTorch: transformers' Llama with sdpa attention, chosen and rejected in one batch of
    2 x 512 tokens, logits of the responses alone, the reference's log-probabilities given, fused AdamW. It is what TRL's
    DPOTrainer computes with a precomputed reference, without its bookkeeping. Full: float32 weights under bf16 autocast
    (TRL's bf16=True). LoRA: bf16 base, rank 16 on all linear layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    batch = int(batch)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig.from_pretrained(folder)
    torch.manual_seed(1)
    wide = torch.float32 if how == "full" else torch.bfloat16
    torch.set_default_dtype(wide)
    with torch.device(device):
        net = LlamaForCausalLM(config).to(wide)
    torch.set_default_dtype(torch.float32)
    attention = net.config._attn_implementation
    if how == "lora":
        from peft import LoraConfig, get_peft_model

        net = get_peft_model(net, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=device == "cuda")
    ids = torch.randint(3, 400, (2 * batch, 512), device=device)
    reference = torch.full((2 * batch,), -1800.0, device=device)

    def step():
        with torch.autocast(device, torch.bfloat16):
            logits = net(input_ids=ids, logits_to_keep=RESPONSE + 1, use_cache=False).logits[:, :-1]
        logps = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, -RESPONSE:, None]).squeeze(-1).sum(-1)
        gain = logps - reference
        loss = -torch.nn.functional.logsigmoid(0.1 * (gain[:batch] - gain[batch:])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds = []
    for _ in range(10 if device == "cuda" else 2):
        began = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds[3:] or seconds)
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB allocated" if device == "cuda" else "?"
    shown(name, batch / middle, (512 + RESPONSE) * batch / middle, peak, f"loss {loss:.4f}, {attention}")
    return []


if __name__ == "__main__":
    commands = dict(runs=runs, gradients=gradients, same=same, scores=scores, speed=speed, texts=texts, model=model,
                    torch=torch_step)
    found = commands[sys.argv[1]](*sys.argv[2:])
    if found:
        print("does not agree: " + "; ".join(found))
    sys.exit(1 if found else 0)

"""The latent part of an lpc-pipe policy for transformers: one bias on the vocabulary for each prompt.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from lpc_transformers import LatentPart

    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, padding_side="left")
    latent = LatentPart(FOLDER, model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer.apply_chat_template(
        CHATS, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**inputs, logits_processor=[latent.processor(**inputs)])

FOLDER is what `lpc-pipe export` wrote, or a run's `model/` over a whole model; the prompts are rendered as in training (the chat
template with the assistant's turn opened). z is the prior's expected z, as in `lpc-pipe generate`, `eval` and `score`:
the posterior has seen a label, which a prompt does not have. Needs torch, safetensors and transformers, and nothing of lpc-pipe.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

WITH_CODES = ("auto", "lpc", "lpc-hard", "lpc-reliable")


class LatentPart:
    """What lpc_config.json and lpc_model.safetensors of a folder hold."""

    def __init__(self, folder, model):
        folder = Path(folder)
        self.model = model
        self.config = json.loads((folder / "lpc_config.json").read_text())
        weights = load_file(str(folder / "lpc_model.safetensors"))
        self.weights = {name.removeprefix("lpc."): tensor for name, tensor in weights.items()}
        self.latent = self.config["latent"]
        if self.latent not in (*WITH_CODES, "gaussian", "mlp", "bias", "noise"):
            raise ValueError(f"{folder}: unknown latent {self.latent!r}")
        self.network = "mlp" if self.latent == "mlp" else "prior"
        rows = self.weights.get("prior_tokens")
        self.row_of = {} if rows is None else {token: row for row, token in enumerate(rows.tolist())}

    @property
    def codes(self):
        """K, where there are codes; else 0."""
        return len(self.weights["codebook"]) if self.latent in WITH_CODES else 0

    def log_prior(self, input_ids, attention_mask=None):
        """ln p(code | prompt) of each prompt (B,K)."""
        return torch.log_softmax(self._outputs(input_ids, attention_mask), -1)

    def z(self, input_ids, attention_mask=None, code=None):
        """z of each prompt: (B,H), or (B,C) for biases of C tokens; None where there is none. With `code` that of one code alone."""
        if code is not None:
            if not 0 <= code < self.codes:
                raise ValueError(f"code {code}: there are {self.codes}")
            return self.weights["codebook"][code].expand(len(input_ids), -1)
        if self.latent in WITH_CODES:
            return self.log_prior(input_ids, attention_mask).exp() @ self.weights["codebook"]
        if self.latent == "gaussian":
            directions = self.weights["directions"]
            return self._outputs(input_ids, attention_mask)[:, : len(directions)] @ directions
        if self.latent == "mlp":
            return self._outputs(input_ids, attention_mask)
        return self.weights["bias"].expand(len(input_ids), -1) if self.latent == "bias" else None

    @torch.no_grad()
    def bias(self, input_ids, attention_mask=None, code=None):
        """What is added to the logits of every position (B,V)."""
        head = self.model.get_output_embeddings().weight
        z = self.z(input_ids, attention_mask, code)
        if z is None:
            return torch.zeros(len(input_ids), len(head))
        tokens = self.weights.get("code_tokens")
        if tokens is None:
            return z @ head.detach().float().cpu().T
        return torch.zeros(len(input_ids), len(head)).index_copy_(1, tokens, z.float())

    def processor(self, input_ids, attention_mask=None, code=None, **_):
        """For `generate(logits_processor=[...])`, over the very inputs that `generate` gets."""
        bias = self.bias(input_ids, attention_mask, code)

        def add(ids, scores):
            # Beams and samples of a prompt stand together.
            if len(scores) % len(bias):
                raise ValueError(f"{len(scores)} sequences of {len(bias)} prompts")
            rows = bias.repeat_interleave(len(scores) // len(bias), 0)
            return scores + rows.to(device=scores.device, dtype=scores.dtype)

        return add

    @torch.no_grad()
    def _outputs(self, input_ids, attention_mask):
        """The last layer of the prior's network (B,outputs)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        w = {name.removeprefix(self.network + "."): t for name, t in self.weights.items() if name.startswith(self.network + ".")}
        if "2.weight" not in w:
            return w["2.bias"].expand(len(input_ids), -1)
        hidden = w["0.bias"].expand(len(input_ids), -1)
        if "table" in w:
            known = [sorted({self.row_of[t] for t in row[m.bool()].tolist() if t in self.row_of}) for row, m in zip(input_ids, mask)]
            hidden = hidden + torch.stack([w["table"][rows].sum(0) for rows in known])
        if "0.weight" in w:
            hidden = hidden + self._states(input_ids, mask) @ w["0.weight"].T
        return torch.nn.functional.silu(hidden) @ w["2.weight"].T + w["2.bias"]

    def _states(self, input_ids, mask):
        """What the prior reads of the prompts' hidden states (B,H)."""
        layer, layers = self.config["prompt_layer"], self.model.config.num_hidden_layers
        caught = {}
        # transformers gives the last layer's states behind the final norm; before it they are caught here.
        handle = self.model.model.layers[-1].register_forward_hook(
            lambda _, __, out: caught.update(last=out[0] if isinstance(out, tuple) else out)
        )
        try:
            states = self.model(
                input_ids=input_ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self.model.device),
                output_hidden_states=True,
            ).hidden_states
        finally:
            handle.remove()
        states = caught["last"] if layer == layers else states[layer]
        states = states.float().cpu()
        mask = mask.bool()
        if self.config["prompt_pooling"] == "last":
            last = [row.nonzero().max() for row in mask]
            x = torch.stack([row[at] for row, at in zip(states, last)])
        else:
            x = torch.stack([row[m].mean(0) for row, m in zip(states, mask)])
        normalise = self.config["normalise"]
        if normalise == "standardise":
            return (x - self.weights["prompt_mean"]) / self.weights["prompt_deviation"]
        return x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() if normalise == "rms" else x

"""The model that llama.cpp is measured with: the weights as a GGUF file, with a vocabulary of names.

Only ids go in and logits come out, so what the tokens are called does not matter. Rows of q and k move from halves to
neighbours (RoPE), vectors stay float32. Written with the `gguf` package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slim.parameters import Parameters

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path: Path, parameters: Parameters, kind: str) -> None:
    """A GGUF file whose matrices are F32, BF16, Q8_0 or Q4_0."""
    import gguf

    config = parameters.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in parameters:
        array = _with_rotated_rows(name, weight, parameters)
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(_gguf_name(name), array)
        else:
            quantized = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(
                _gguf_name(name), gguf.quants.quantize(array, quantized), raw_dtype=quantized
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def _with_rotated_rows(name: str, weight: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Rows of q and k in GGUF's order: (i, i + D/2) become neighbours."""
    config = parameters.config
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
    for part, count in heads.items():
        if part in name:
            pairs = weight.reshape(count, 2, config.head_dim // 2, config.dim)
            return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)
    return weight

"""The model that llama.cpp is measured with: the weights as a GGUF file, with a vocabulary of names.

Only ids go in and logits come out, so what the tokens are called does not matter. Rows of q and k move from halves to
neighbours (RoPE), vectors stay float32. Written with the `gguf` package.
"""

from __future__ import annotations

from pathlib import Path

from slim.formats.gguf import gguf_name
from slim.formats.rope_rows import interleaved, rotated_heads
from slim.parameters import Parameters


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
        heads = rotated_heads(name, config)
        array = weight if heads is None else interleaved(weight, heads)
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(gguf_name(name), array)
        else:
            quantized = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(
                gguf_name(name), gguf.quants.quantize(array, quantized), raw_dtype=quantized
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

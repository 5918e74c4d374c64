"""llama2.c's files: a checkpoint (version 0) and the `tokenizer.bin` beside it.

    7 x i32 {dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: untied), seq_len}, then f32, all
    layers of a kind together: tok_emb, att_norm, wq, wk, wv, wo, ffn_norm, w1 gate, w2 down, w3 up, final_norm,
    cos (seq, D/2), sin (seq, D/2), [wcls when untied]

    u32 longest token, then for each id: f32 score, i32 length, bytes

Its `run.c` wants the bytes at ids 3 to 258, a text's beginning at 1 and merges by score: the rows of the vocabulary
move. It splits a text without GPT-2's words and puts a blank before it, so a prompt may become other tokens there:

    0 <|user|>   1 <|endoftext|>   2 <|end|>   3..258 bytes   259.. merges, score = -rank   last <|assistant|>

https://github.com/karpathy/llama2.c
"""

from __future__ import annotations

import numpy as np

from slim.errors import UsageError
from slim.imported_tokenizer import SENTENCEPIECE, ImportedTokenizer
from slim.tokenizer import FIRST_MERGE_ID, SPECIAL_TOKENS, Tokenizer

TOKENIZER = "tokenizer.bin"
KINDS = (  # of a layer's weights, in the order of the file
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj"),
    *("self_attn.v_proj", "self_attn.o_proj"),
    *("post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"),
)


def ids_in_order(tokenizer: Tokenizer) -> np.ndarray:
    """Our id of every llama2.c id, (V,) int64. UsageError for a vocabulary of which run.c makes other tokens."""
    if isinstance(tokenizer, ImportedTokenizer):
        known = tokenizer.vocabulary
        if (
            known.shape != SENTENCEPIECE
            or known.byte_ids != tuple(range(3, 259))
            or known.start_id != 1
        ):
            raise UsageError(
                "llama2.c joins characters by score and has its bytes at tokens 3 to 258: this vocabulary is another"
            )
        return np.arange(tokenizer.vocab_size)
    start, user, assistant, end = range(len(SPECIAL_TOKENS))
    single = {tokenizer.token_bytes(i): i for i in range(len(SPECIAL_TOKENS), FIRST_MERGE_ID)}
    in_order = [single[bytes([byte])] for byte in range(256)]
    merges = range(FIRST_MERGE_ID, tokenizer.vocab_size)
    return np.array([user, start, end, *in_order, *merges, assistant], np.int64)

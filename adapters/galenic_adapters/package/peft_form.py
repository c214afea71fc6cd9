"""
The format of Hugging Face PEFT's checkpoints: a configuration and a safetensors file.

    PROMPT_TUNING, P_TUNING   prompt_embeddings (P, D): rows before the text
    MULTITASK_PROMPT_TUNING   prompt_embeddings (P, D), prefix_task_cols (K, P, R),
                              prefix_task_rows (K, R, D): the rows of task k are
                              prompt_embeddings ∘ (cols[k] @ rows[k])
    PREFIX_TUNING             prompt_embeddings (P, L * 2 * W): a position's keys and values, layer
                              by layer, as attention reads them: keys are rotated already
    IA3                       for a module in a layer, ia3_l: (W, 1) scales its output, (1, W) its
                              input

A checkpoint is untrusted, so it is parsed as data: PEFT is not asked to build it, nothing is
unpickled, and no path or hub name in it is followed. PEFT itself is not needed.

Dimension key:  P prompt positions   D model width   R rank   K tasks   L layers   W width of an
                activation
"""

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MULTITASK, PROMPT, P_TUNING = "MULTITASK_PROMPT_TUNING", "PROMPT_TUNING", "P_TUNING"
PREFIX, IA3 = "PREFIX_TUNING", "IA3"
SHARED, COLS, ROWS = "prompt_embeddings", "prefix_task_cols", "prefix_task_rows"
LAYERS, VECTOR = "base_model.model.model.layers.", ".ia3_l"
"""Before and after a layer's number and module, in the names of IA3's vectors."""
MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "f": "mlp.down_proj",
}
"""The module whose output or input a place is; a mixture of experts has none at ``f``."""
TAKEN_IN = ("o", "f")
"""Places that are their modules' inputs; PEFT calls these feed-forward modules."""


def vector_shape(place: str, width: int) -> tuple[int, int]:
    """Return the shape of IA3's vector at *place*."""
    return (1, width) if place in TAKEN_IN else (width, 1)

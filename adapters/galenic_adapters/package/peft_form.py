"""
Soft prompts to and from Hugging Face PEFT, as a configuration and a safetensors file.

    MULTITASK_PROMPT_TUNING   prompt_embeddings (P, D), prefix_task_cols (K, P, R),
                              prefix_task_rows (K, R, D): the prompt of task k is
                              prompt_embeddings ∘ (cols[k] @ rows[k]), which is our own form
    PROMPT_TUNING             prompt_embeddings (P, D): a metaprompt of its own, scaled by one

A checkpoint is a stranger's, so it is parsed as data: PEFT is not asked to build it, nothing is
unpickled, and no path or hub name that stands in it is followed. PEFT itself is not needed.

Dimension key:  P prompt positions   D model width   R rank   K tasks
"""

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MULTITASK, DENSE = "MULTITASK_PROMPT_TUNING", "PROMPT_TUNING"
SHARED, COLS, ROWS = "prompt_embeddings", "prefix_task_cols", "prefix_task_rows"

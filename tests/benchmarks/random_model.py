"""Make a model of Llama-3-8b's shape with random weights, to benchmark without the real ones.

    python tests/benchmarks/random_model.py FOLDER --tokenizer DIR_OR_HUB_NAME

Only the vocabulary is the tokenizer's: embeddings are not counted in the floor.
"""

from pathlib import Path

import click
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

SHAPE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}  # fmt: skip


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokenizer", required=True, help="folder or hub name")
@click.option("--layers", default=SHAPE["num_hidden_layers"], show_default=True)
def main(folder: Path, tokenizer: str, layers: int) -> None:
    """Write the model, in bfloat16, and the tokenizer into FOLDER."""
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        **SHAPE | {"num_hidden_layers": layers},
        vocab_size=-(-len(tokens) // 128) * 128,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


if __name__ == "__main__":
    main()

"""dinojax: a character-level language-model lab in pure functional JAX.

Read the modules in this order; each imports only from those before it:
`vocab`, `data`, `batches`, `config`, `ngram`, `distances`, `products`, `cells`, `recurrence`,
`model`, `loss`, `optimizers`, `train`, `controls`, `sample`, `stream`, `search`, `score`,
`evaluate`, `quality`, `checkpoint`, `metrics`, `event_files`, `runs`, `trainer`, `plots`.
`devices`, `command_line` and `patterns` serve the scripts and import nothing of ours; `settings`,
`jobs` and `reports` are parts of `scripts/train.py`.
"""

__version__ = "0.1.0"

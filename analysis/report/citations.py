"""What does somebody cite who uses this page? BibTeX entries."""

STUDY = """@article{bach2025registers,
  title   = {Registers in Small Vision Transformers: A Reproducibility Study of
             {V}ision {T}ransformers {N}eed {R}egisters},
  author  = {Bach, Linus Ruben and Bakker, Emma and van Dijk, R{\\'e}nan and
             de Vries, Jip and Szewczyk, Konrad},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  url     = {https://openreview.net/forum?id=5JflRlCt3Q}
}"""

REGISTERS = """@inproceedings{darcet2024registers,
  title     = {Vision Transformers Need Registers},
  author    = {Darcet, Timoth{\\'e}e and Oquab, Maxime and Mairal, Julien and
               Bojanowski, Piotr},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2309.16588}
}"""


def bibtex(version: str) -> str:
    """The tool in the version that made the results, the study, and the paper on registers."""
    tool = f"""@software{{regvit_jax,
  title   = {{regvit\\_jax: vision transformers with registers in {{JAX}} and {{Flax}}}},
  author  = {{{{The regvit\\_jax developers}}}},
  version = {{{version}}},
  year    = {{2026}}
}}"""
    return "\n\n".join((tool, STUDY, REGISTERS))

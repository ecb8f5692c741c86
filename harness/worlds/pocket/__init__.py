"""The embedded world: drawn pictures with known truth, and a small LLaVA trained on them from scratch.

Every step of the harness runs on it for real, without downloads. `scenes` decides what is in a picture, `draw` draws it,
`text` describes it, `network` and `training` make the base model, `formats` writes the benchmarks' official files,
`preferences` the preference pairs, `world` keeps everything in the user's cache.
"""

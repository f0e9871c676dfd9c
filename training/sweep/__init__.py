"""Many trainings at once, on one machine or on a cluster, by Ray: seeds, ablations and searches.

`trials` says what is to be trained, `trial` trains one of them, and `tasks` and `search` spread
them by Ray over the processors. `storage` is where a sweep keeps everything, and `results`,
`report` and `pictures` make tables of it. Only the command `sweep` imports this package, since Ray
and pyarrow are an extra.
"""

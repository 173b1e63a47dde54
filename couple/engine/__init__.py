"""Pipeline calls that run side by side: each stops at its `scheduler.step`, meets the others there, and goes on.

`loop` drives the calls, `calls` is one of them, `arrival` is where it stands; `requests`, `merging` and `rows` make one
forward of several; `watch` checks and reports what goes by.
"""

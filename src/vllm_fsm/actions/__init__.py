"""What people do to the service: choose a model, see or replace the API key, delete cached models.

`selection` and `credentials` are the actions, `form` makes each of them a machine form for the StartOS package, and the
command line calls the same functions. They write files and leave requests; all of them work whether or not a controller
runs. What is refused raises `problems.Rejected` and has changed nothing. This package imports nothing by itself, so
that an action does not pay for what another one needs.
"""

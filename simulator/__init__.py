"""A local Skyvern for demo, development and tests: its API, its runs, its webhooks and, on request, its misbehaviour.

    simulator.api.create_app(Options(…))     the ASGI app
    `runhook simulate`                       the same as a command

It knows nothing of the receiver beyond the signature: to it, Runhook is one more callback URL and one more caller.
"""

"""A local Skyvern for demo, development and tests: its API, runs, webhooks, and faults on request.

    simulator.api.create_app(Options(…))     the ASGI app
    `runhook simulate`                       the same as a command

Of the receiver it shares only the signature: Runhook is one more callback URL and one more caller.
"""

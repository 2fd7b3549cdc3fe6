"""Farebox: money is held before the call, and the hold is a true upper bound, because the same bound is sent upstream.

Reading order, which is also the import order (each module imports only from those above it):

    errors      the tree of refusals, each with its status and reason
    money       nano-dollars, and the one parser through which JSON numbers enter
    body        a JSON object as text: where its members stand, and how single ones are set
    policy      what moves the price and cannot be bounded is refused
    chat        a chat request: what is read of it
    rates       catalogue rows to rates, the dearest that a call may meet
    pricing     a request to a quote, a quote clamped to what is affordable
    ledger      one tenant's month: reserve and settle as pure functions, spent and held derived
    tenants     names, limits, and the windows of a moment in a tenant's time zone
    sse         server-sent events out of bytes
    reminders   of lost calls
    settlement  what an answer from upstream means for the money
    settings    environment variables, checked
    rest        API Gateway events to requests, responses to API Gateway answers

    aws         clients, and DynamoDB's way of writing values
    store       DynamoDB: the ledger's two updates, spans, tenants
    vault       keys from Secrets Manager
    upstream    OpenRouter over httpx
    telemetry   one log line a call
    catalogue   prices asked from upstream and kept for a while
    directory   tenants asked from the store and kept for a while

    admission   quote and reserve: hold the most that a call can cost, or refuse it
    spans       the record of a call
    relay       bytes from upstream to the client, settled exactly once whatever the client does
    proxy       the seven steps of a call
    usage       what a tenant has spent, holds and has left
    routes      which path goes where, and every refusal to its response
    parts       that the gate and the rollup both have
    gate        wires the proxy's parts
    sweep       calls whose cost was not known when they ended
    rollup      what runs on a schedule, wired

The first group decides and does no I/O, the second translates and never decides, the third puts them in order.
"""

__version__ = "0.1.0"

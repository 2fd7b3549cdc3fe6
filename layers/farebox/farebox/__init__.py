"""Farebox: money is held before the call, and the hold is a true upper bound, because the same bound is sent upstream.

Reading order, which is also the import order (each module imports only from those above it):

    errors      the tree of refusals, each with its status and reason
    money       nano-dollars, and the one parser through which JSON numbers enter
    body        a JSON object as text: where its members stand, and how single ones are set
    variants    names of models: suffixes and patterns
    policy      what moves the price: read where it can be bounded, refused where it cannot
    chat        a chat request: what is read of it
    rates       catalogue rows to rates, the dearest that a call may meet
    pricing     a request to a quote, a quote clamped to what is affordable
    ledger      one tenant's month: reserve, swap and settle as pure functions, spent and held derived
    hours       in UTC, by which spans are kept: over, and final
    tally       sums over spans, in total and by feature, provider, model and key
    rules       a tenant's rules: models, downgrades, fallbacks, caps
    keys        API keys of tenants
    tenants     names, limits, and the windows of a moment in a tenant's time zone
    configs     a tenant's configuration as it is kept
    changes     what an owner does to it, or to an API key
    reminders   of lost calls
    states      budget states of a window, and their changes, each told once
    forecasts   what a month will come to
    queries     what is asked of usage, checked
    reports     sums of usage to rows, as JSON or CSV
    candidates  where a call could go: asked for, cheaper, behind it
    offers      which of them to hold, and with how much output, given what is left
    sse         server-sent events out of bytes
    settlement  what an answer from upstream means for the money
    routing     what it means for the next attempt, and for the model's circuit
    settings    environment variables, checked
    rest        API Gateway events to requests, responses to API Gateway answers

    aws         clients, and DynamoDB's way of writing values
    store       DynamoDB: the ledger's three updates, spans, tenants
    rollups     sums of spans in the table, and how far they are
    vault       keys from Secrets Manager
    upstream    OpenRouter over httpx
    telemetry   one log line an attempt
    circuits    a model's circuit, as it stands in the table
    breaker     one circuit a model, shared between functions
    catalogue   prices asked from upstream and kept for a while
    directory   tenants asked from the store and kept for a while
    office      configurations of tenants, and how functions hear that one was changed

    watch       changes of budget states, told once
    admission   quote and reserve: hold the most that a call can cost, or refuse it
    fees        that nobody announces, learnt from what calls have cost
    spans       the record of an attempt
    outage      what is let through while the ledger cannot be reached, if anything
    books       spans and the ends of holds, in this order
    parts       that the gate and the rollup both have
    gate        the proxy's parts, wired
    relay       bytes from upstream to the client, settled exactly once whatever the client does
    course      the attempts of a call, one after the other
    answers     what the client gets
    proxy       the seven steps of a call
    readings    where the sums of a query come from: rollups, or spans
    usage       what a tenant has spent, holds and has left
    overview    the same of all tenants
    quotes      what a request would come to
    routes      which path goes where, and every refusal to its response
    sweep       calls whose cost was not known when they ended
    fold        spans into rollups, whole hours at a time
    rollup      what runs on a schedule, wired

    trail       the last spans, for whoever watches calls come in
    clerk       an owner's change: read, made, stored, announced, told
    admin_answers  what is told of a tenant and its keys
    admin_shapes   the same, and what is taken, in pydantic's words
    admin_docs     the OpenAPI document
    admin_routes   which path does what
    admin          who it is, and every error to its response

    cli_client     a gateway over HTTP: where it is, with which keys, what it answers
    cli_stack      the same of a CloudFormation stack
    cli_shown      answers as tables, bars and lines of text
    cli_terminal   what all commands share
    cli_tenants    tenants and API keys
    cli_usage      usage, quotes, the last calls
    cli            the program `farebox`

The first group decides and does no I/O, the second translates and never decides, the third puts them in order. The
fourth is the admin's side, which alone imports pydantic; the last is a client, of which nothing runs on Lambda.
"""

__version__ = "0.1.0"

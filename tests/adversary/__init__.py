"""An adversarial suite for any gateway that speaks OpenAI's chat API and keeps a budget.

The upstream is always our simulator, as a process of its own, so the suite knows what was really billed. Each case gets
a fresh budget, misbehaves in its own way, and prints what was billed against the cap and booked against the bill.

    money       amounts as they are compared
    clients     how a client behaves: polite, in a storm, gone after the first chunk
    cases       the table of cases
    verdicts    what billed, booked and told mean together
    upstream    the simulator, its bill, and waiting until nothing moves any more
    targets     what differs between gateways: how a budget is made, how the books are read
    farebox     ours, started here
    litellm     a LiteLLM proxy, started here where it can be
    midnight    a time zone in which the day is about to end
    run         one case to its end

    python -m tests.adversary                        our gateway, started by the suite
    python -m tests.adversary --url URL --key KEY    a gateway that runs already
    python -m tests.adversary --target litellm       a LiteLLM proxy
"""

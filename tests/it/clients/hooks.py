"""Constraints on requests that the OpenAPI document cannot express."""

import datetime
import re
import uuid

import schemathesis
from schemathesis.generation import GenerationMode

WAIT_SECONDS_MAX = 1
AMOUNT_MAX = 999999999999.99
# Years that are long past; times more than 366 days ahead are refused, and no schema can say so.
PAST = re.compile(r"^[01][0-9]{3}-")
KEY = re.compile(r"^[!#-~]([ -~]{0,253}[!-~])?$")


def plain(value):
    """JSON Schema accepts 57.0 as an integer; the server parses numbers as text, so 57 is sent."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Larger integers are not interoperable and are refused.
    if isinstance(value, (int, float)) and value != 0 and not 1e-300 < abs(value) < 1e300:
        return 0
    if isinstance(value, list):
        return [plain(element) for element in value]
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    return value


def with_decimals(order):
    """`multipleOf` cannot say "at most two decimals": validators that divide floats would refuse 19.99. With a currency that
    has none, amounts are whole."""
    decimals = 0 if order.get("currency") else 2
    lines = order.get("items")
    prices = [(line, "unit_price") for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    for member, name in [(order, "total_amount"), *prices]:
        amount = member.get(name)
        if isinstance(amount, float) and abs(amount) <= AMOUNT_MAX:
            member[name] = plain(round(amount, decimals))
        elif isinstance(amount, str) and re.match(r"^[0-9]+[.][0-9]+$", amount):
            member[name] = f"{float(amount):.{decimals}f}" if decimals else str(int(float(amount)))


def with_near_times(order):
    """A deadline is in the future and after the start."""
    for name in ("start_after", "deadline"):
        time = order.get(name)
        if isinstance(time, str) and re.match(r"^[0-9]{4}-", time):
            if name == "deadline":
                later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)
                order[name] = later.strftime("%Y-%m-%dT%H:%M:%SZ")
            elif not PAST.match(time):
                order[name] = "1999-01-01T00:00:00Z"


def with_one_list(order):
    """An order has `item_ids` or else `items`, which generators of clients cannot express."""
    if order.get("items") is None and order.get("item_ids") is None:
        order["item_ids"] = [1]
    elif order.get("items") is not None and order.get("item_ids") is not None:
        del order["items"]


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, (dict, list)):
        case.body = plain(case.body)
    if isinstance(case.body, dict):
        orders = case.body.get("orders")
        new = case.operation.path in ("/orders", "/orders/batch")
        of_orders = [case.body] if case.operation.path == "/orders" else orders if isinstance(orders, list) else []
        for order in of_orders if new and case.operation.method.upper() == "POST" else []:
            if isinstance(order, dict):
                with_decimals(order)
                if case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE:
                    with_one_list(order)
                    with_near_times(order)
    if case.operation.method.upper() == "PATCH" and isinstance(case.body, dict):
        if case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE:
            # The orders of a run have different currencies.
            case.body.pop("items", None)
            if isinstance(case.body.get("total_amount"), (int, float, str)):
                case.body["total_amount"] = 7
            with_near_times(case.body)
    if case.operation.path == "/leases" and isinstance(case.body, dict):
        wait = case.body.get("wait")
        if isinstance(wait, int) and 0 <= wait <= 60:
            case.body["wait"] = min(wait, WAIT_SECONDS_MAX)
    # Valid keys are always new: a key reused with another body is refused, as it must be.
    if KEY.match(str(case.headers.get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())

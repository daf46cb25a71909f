"""Constraints on requests that the OpenAPI document cannot express."""

import re
import uuid

import schemathesis

WAIT_SECONDS_MAX = 1
AMOUNT_MAX = 999999999999.99
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


def with_cents(order):
    """`multipleOf` cannot say "at most two decimals": validators that divide floats would refuse 19.99."""
    amount = order.get("total_amount") if isinstance(order, dict) else None
    if isinstance(amount, float) and 0 <= amount <= AMOUNT_MAX:
        order["total_amount"] = plain(round(amount, 2))


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, (dict, list)):
        case.body = plain(case.body)
    if isinstance(case.body, dict):
        orders = case.body.get("orders")
        for order in [case.body, *(orders if isinstance(orders, list) else [])]:
            with_cents(order)
    if case.operation.path == "/leases" and isinstance(case.body, dict):
        wait = case.body.get("wait")
        if isinstance(wait, int) and 0 <= wait <= 60:
            case.body["wait"] = min(wait, WAIT_SECONDS_MAX)
    # Valid keys are always new: a key reused with another body is refused, as it must be.
    if KEY.match(str(case.headers.get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())

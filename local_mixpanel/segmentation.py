"""Mixpanel's segmentation expressions, as far as exports are filtered by them.

https://docs.mixpanel.com/reference/segmentation-expressions
"""

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

Properties = Mapping[str, Any]
_Evaluate = Callable[[Properties], Any]

# What a property is that is missing: compared with anything, it is not true.
_UNDEFINED = None
_TOKEN = re.compile(
    r'\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<word>[a-z]+)|(?P<sign>==|!=|>=|<=|[><()\[\]]))"
)
# float() would also take "nan", "inf" and "1_000".
_DECIMAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Unsupported(ValueError):
    """The expression is wrong, or beyond what is evaluated here; the message says where."""


def parse(expression: str) -> Callable[[Properties], bool]:
    """What tells of an event's properties whether they match.

    Raises:
        Unsupported: It is no expression of properties, numbers, strings, `number`, `defined`,
            comparisons, `not`, `and` and `or`.
    """
    try:
        parser = _Parser(expression)
        evaluate = parser.disjunction()
        parser.expect("")
    except RecursionError as error:
        raise Unsupported("where is nested too deeply") from error
    return lambda properties: evaluate(properties) is True


class _Parser:
    """Recursive descent: `or` binds weaker than `and`, that weaker than `not`."""

    def __init__(self, expression: str) -> None:
        self._tokens: list[str] = []
        end = 0
        while expression[end:].strip():
            match = _TOKEN.match(expression, end)
            if match is None:
                raise Unsupported(f"where is not understood at: {expression[end:][:40]}")
            self._tokens.append(match[0].strip())
            end = match.end()

    def disjunction(self) -> _Evaluate:
        first, *others = self._separated(self._conjunction, "or")
        if not others:
            return first
        return lambda properties: any(part(properties) is True for part in (first, *others))

    def _conjunction(self) -> _Evaluate:
        first, *others = self._separated(self._negation, "and")
        if not others:
            return first
        return lambda properties: all(part(properties) is True for part in (first, *others))

    def _separated(self, parse_part: Callable[[], _Evaluate], word: str) -> list[_Evaluate]:
        parts = [parse_part()]
        while self._take(word):
            parts.append(parse_part())
        return parts

    def _negation(self) -> _Evaluate:
        if self._take("not"):
            inner = self._negation()
            return lambda properties: inner(properties) is not True
        return self._comparison()

    def _comparison(self) -> _Evaluate:
        start = self._tokens[0] if self._tokens else ""
        left = self._operand()
        sign = self._tokens[0] if self._tokens else ""
        if sign not in _COMPARISONS:
            # Only properties can be true or false by themselves.
            if start == "number" or _is_literal(start):
                raise Unsupported(f"where has {start} in place of a condition")
            return left
        self._tokens.pop(0)
        return self._compared(left, sign, self._operand())

    @staticmethod
    def _compared(left: _Evaluate, sign: str, right: _Evaluate) -> _Evaluate:
        compare = _COMPARISONS[sign]
        is_ordering = sign not in ("==", "!=")

        def evaluate(properties: Properties) -> bool:
            one, other = left(properties), right(properties)
            if one is _UNDEFINED or other is _UNDEFINED:
                return False
            if type(one) is not type(other):
                return sign == "!="
            # Only numbers have an order.
            if is_ordering and not isinstance(one, float):
                return False
            return compare(one, other)

        return evaluate

    def _operand(self) -> _Evaluate:
        token = self._tokens.pop(0) if self._tokens else ""
        if token == "(":
            inner = self.disjunction()
            self.expect(")")
            return inner
        if token == "properties":
            return self._property()
        if token in ("number", "defined"):
            self.expect("(")
            inner = self._operand()
            self.expect(")")
            return self._called(token, inner)
        if token.startswith('"'):
            text = _text(token)
            return lambda properties: text
        if _is_literal(token):
            number = float(token)
            return lambda properties: number
        raise Unsupported(f"where is not understood at: {token or 'its end'}")

    def _property(self) -> _Evaluate:
        self.expect("[")
        token = self._tokens.pop(0) if self._tokens else ""
        if not token.startswith('"'):
            raise Unsupported("where names a property without quotes")
        name = _text(token)
        self.expect("]")

        def evaluate(properties: Properties) -> Any:
            value = properties.get(name, _UNDEFINED)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return _float(value) if is_number else value

        return evaluate

    @staticmethod
    def _called(function: str, inner: _Evaluate) -> _Evaluate:
        if function == "defined":
            return lambda properties: inner(properties) is not _UNDEFINED

        return lambda properties: _number(inner(properties))

    def expect(self, token: str) -> None:
        """Take the next token, which has to be this one; the end for an empty one."""
        found = self._tokens.pop(0) if self._tokens else ""
        if found != token:
            raise Unsupported(f"where has {found or 'its end'} in place of {token or 'its end'}")

    def _take(self, word: str) -> bool:
        if self._tokens[:1] == [word]:
            self._tokens.pop(0)
            return True
        return False


def _is_literal(token: str) -> bool:
    return token[:1].isdigit() or token[:1] in ("-", '"')


def _text(token: str) -> str:
    try:
        text: str = json.loads(token)
    except ValueError as error:
        raise Unsupported(f"where has a string that is not understood: {token}") from error
    return text


def _number(value: Any) -> float | None:
    """What Mixpanel casts a value to; undefined for what is no number."""
    if isinstance(value, str):
        return _float(value) if _DECIMAL.fullmatch(value) else _UNDEFINED
    return _float(value) if isinstance(value, int | float) else _UNDEFINED


def _float(value: str | float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return _UNDEFINED
    return number if math.isfinite(number) else _UNDEFINED

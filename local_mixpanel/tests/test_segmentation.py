import pytest

from local_mixpanel.segmentation import Unsupported, parse

EVENT = {"time": 100, "plan": "pro", "seats": "12", "empty": "", "nothing": None, "yes": True}
ODD = {"huge": 10**400, "list": [2], "object": {"a": 1}, "long": "1" * 400, 'quote"d': "\\"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('properties["time"] > 99', True),
        ('properties["time"] > 100', False),
        ('properties["time"] >= 100', True),
        ('properties["time"] < 100.5', True),
        ('properties["time"] <= 99', False),
        ('properties["plan"] == "pro"', True),
        ('properties["plan"] != "pro"', False),
        ('properties["seats"] > 5', False),
        ('number(properties["seats"]) > 5', True),
        ('number(properties["plan"]) > 5', False),
        ('number(properties["missing"]) > 5', False),
        ('number(properties["missing"]) < 5', False),
        ('properties["missing"] != "x"', False),
        ('defined(properties["plan"])', True),
        ('defined(properties["empty"])', True),
        ('not defined(properties["missing"])', True),
        ('not defined(properties["nothing"])', True),
        ('properties["time"] > 1 and properties["plan"] == "free"', False),
        ('properties["time"] > 1 or properties["plan"] == "free"', True),
        ('properties["time"] < 1 and properties["time"] < 1 or properties["plan"] == "pro"', True),
        ('properties["time"] < 1 and (properties["time"] < 1 or properties["plan"]=="pro")', False),
        ('not (properties["time"] < 1)', True),
        ('  (number( properties["time"] )>99)  ', True),
        (r'properties["a\"b"] == "x" or properties["plan"] == "pro"', True),
        (r'properties["quote\"d"] == "\\"', True),
        ('properties["yes"]', True),
        ('not properties["plan"]', True),
        ('number(properties["yes"]) == 1', True),
        ('properties["yes"] == 1', False),
        ('properties["yes"] != 1', True),
        ('number(properties["nothing"]) >= 0', False),
        ('number(properties["list"]) == 2', False),
        ('number(properties["empty"]) == 0', False),
        ('number(" +1.5e3 ") == 1500', True),
        ('number("1_2") == 12', False),
        ('defined(number("inf")) or defined(number("nan"))', False),
        ('defined(number(properties["long"])) or properties["huge"] > 1', False),
        ('properties["plan"] > "a" or "b" > "a" or "b" >= "b"', False),
        ('properties["list"] < properties["list"] or properties["object"] <= 1', False),
        ('properties["list"] == properties["list"]', True),
        ("-1.5 < -1", True),
        ("not 1 == 1 or 1 == 1", True),
        ("not not 1 == 1", True),
        ("1 == 2 and 1 == 1 or 1 == 1", True),
        ("1 == 1 or 1 == 1 and 1 == 2", True),
        ('defined(properties["and"]) or defined(properties["plan"])', True),
    ],
)
def test_expressions_are_evaluated(expression, expected):
    assert parse(expression)(EVENT | ODD) is expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "properties",
        "properties[plan]",
        'properties["plan"] ==',
        'properties["plan"] == "pro" and',
        '(properties["plan"] == "pro"',
        'properties["plan"] == "pro")',
        'properties["plan"] in ["pro"]',
        'boolean(properties["plan"])',
        'user["plan"] == "pro"',
        'properties["time"] + 1 > 2',
        'properties["plan"] == "pro" properties["plan"]',
        '"pro"',
        "1",
        'number(properties["time"])',
        'number(properties["time"]) or properties["time"] > 1',
        'not "pro"',
        "1 < 2 < 3",
        "1 = 1",
        "1 == 1 && 1 == 1",
        "1 == 1 AND 1 == 1",
        r'properties["\x"] == 1',
        'properties["plan] == 1',
        "properties['plan'] == 1",
        "number(1, 2) == 1",
        "defined()",
        "()",
    ],
)
def test_what_is_not_understood_is_said(expression):
    with pytest.raises(Unsupported, match="where"):
        parse(expression)

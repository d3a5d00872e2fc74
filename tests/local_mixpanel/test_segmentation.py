import pytest

from local_mixpanel.segmentation import Unsupported, parse

EVENT = {"time": 100, "plan": "pro", "seats": "12", "empty": "", "nothing": None, "yes": True}


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
    ],
)
def test_expressions_are_evaluated(expression, expected):
    assert parse(expression)(EVENT) is expected


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
    ],
)
def test_what_is_not_understood_is_said(expression):
    with pytest.raises(Unsupported, match="where"):
        parse(expression)

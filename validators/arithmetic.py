"""Is the reckoning right, and does it begin with the problem? Equations are recomputed exactly, and what they reckon with is
looked for in the input.

It does not see numbers that are put together wrongly: `12 + 4` where `12 * 4` is asked for.
"""

import ast
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from workbench.declaration import Task
from workbench.outputs.base import fold
from workbench.types import Check, Judged

MOST = 12  # equations
LONGEST = 120  # characters of one
DIGITS = 30  # of a number; a longer one is in no schoolbook
FORM = re.compile(r"[0-9.+\-*/() ]+")
EXAMPLE = "4 * 12 = 48"

VALUES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18,
    "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100,
}  # fmt: skip
SHARES = {
    "half": Fraction(1, 2), "quarter": Fraction(1, 4), "three quarters": Fraction(3, 4), "third": Fraction(1, 3),
    "fifth": Fraction(1, 5), "tenth": Fraction(1, 10),
}  # fmt: skip

# The numbers that a word lets into an equation, beside those that are said. 1, oneself or a whole, always is.
MEANT = {
    r"twice|doubl\w+|pairs?|couples?|both|halv\w+|twins?|each way|(there )?and back|return|round[ -]trip"
    r"|every (other|second)|perimeter|all (the way )?(a?round)|fence|weekends?|bicycles?|bikes?": (2,),
    r"thrice|tripl\w+|treble\w*|triangles?|triangular|tricycles?|yards?": (3,),
    r"quadrupl\w+|squares?|quarterly": (4,),
    r"weekdays?|work(ing)? days?|work(ing)? week|school (days?|week)|mondays? (to|till|until|through) fridays?": (5,),
    r"mondays? (to|till|until|through) saturdays?": (6,),
    r"weeks?|weekly": (7,),
    r"fortnights?|fortnightly": (2, 14),
    r"decades?": (10,),
    r"dozens?|foot|feet|ft|inch(es)?|noon|midday|pm|p\.m\.|months?|monthly": (12,),
    r"stones?": (14,),
    r"ounces?|oz|pounds?|lbs?": (16,),
    r"days?|daily|midnight": (24,),
    r"years?|yearly|annual(ly)?": (12, 52, 365),
    r"hours?|hourly|hrs?|h|minutes?|mins?|o'clock": (60,),
    r"quarter (past|to)": (15, 45, 60),
    r"half past": (30, 60),
    r"per ?cent|percentage|euros?|pounds?|dollars?|bucks|cents?|pence|penny|p|quid|francs?|century|centuries": (100,),
    r"centimet(er|re)s?|cm|millimet(er|re)s?|mm": (10, 100, 1000),
    r"met(er|re)s?|m": (100, 1000),
    r"kilo\w*|km|kg|k|grams?|g|lit(er|re)s?|l|millilit(er|re)s?|ml|tonnes?|tons?|t": (1000,),
    r"centilit(er|re)s?|cl|decilit(er|re)s?|dl": (10, 100),
}
SIGNS = re.compile(r"[%£$€]")
UNITS = {
    "hour": (60,), "minute": (60,), "day": (24,), "week": (7,), "year": (12, 52), "dozen": (12,), "foot": (12,),
    "hundred": (100,), "thousand": (1000,), "million": (1_000_000,), "kilo": (1000,), "kilogram": (1000,),
    "kilometre": (1000,), "kilometer": (1000,), "litre": (1000,), "liter": (1000,), "tonne": (1000,), "metre": (100,),
    "meter": (100,), "pound": (100, 16), "dollar": (100,), "euro": (100,), "century": (100,),
}  # fmt: skip

_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_WORDS = re.compile(r"[a-z]+|\d[\d.,]*")
_MEANT = tuple((re.compile(rf"(?<![a-z'])(?:{words})(?![a-z])"), values) for words, values in MEANT.items())
_AND_A_PART = re.compile(
    rf"\b(?P<whole>{_NUMBER}|an?|{'|'.join(VALUES)}) (?:(?P<unit>[a-z]+?)s? )?and (?:an? )?"
    r"(?P<part>half|quarter|third|three quarters)\b"
)
_PART_OF = re.compile(
    rf"\b(?P<part>half|three quarters|quarter|third|fifth|tenth)(?: of)?(?: an?)? (?P<unit>{'|'.join(UNITS)})s?(?![a-z])"
)


class Fault(Exception):
    """What is wrong with the steps, in words."""


@dataclass(frozen=True)
class Recomputes:
    """`steps` holds equations, `4 * 12 = 48; 48 - 5 = 43`. Each is true; each number in it is said in the input, in digits, in
    words or by a word that stands for it (a dozen, half, per cent, a week), or is what an equation before it came to; and what
    the last comes to is the `answer`."""

    steps: str
    answer: str
    name: str = "recomputes"

    def judge(self, judged: Judged, task: Task) -> Check:
        try:
            self._against(judged)
        except Fault as fault:
            return Check(validator=self.name, outcome="fail", reason=str(fault))
        return Check(validator=self.name, outcome="pass")

    def _against(self, judged: Judged) -> None:
        if not isinstance(judged.value, dict):
            raise Fault("there is no answer to recompute")
        known = set(said(" ".join(str(value) for value in judged.example.input.values() if value is not None)))
        last = None
        for equation in equations(str(judged.value[self.steps])):
            left, last = sides(equation)
            made_up = next((number for number in left.numbers() if number not in known), None)
            if made_up is not None:
                raise Fault(f"{shown(made_up)} in {equation!r} is neither said nor what a step before it came to")
            if (found := left.worth()) != last:
                raise Fault(f"{equation!r} is wrong: it is {shown(found)}")
            known.add(last)
        if last is None:
            raise Fault("there are no steps")
        if last != _read(str(judged.value[self.answer])):
            raise Fault(f"the steps come to {shown(last)}, the answer is {judged.value[self.answer]}")


def recomputes(steps: str = "steps", answer: str = "answer") -> Recomputes:
    """`steps`: the field that holds the equations; `answer`: the one that holds the number they come to."""
    return Recomputes(steps, answer)


def equations(steps: str) -> list[str]:
    """What stands between semicolons or line breaks. Raises Fault."""
    found = [part.strip() for part in re.split(r"[;\n]", steps) if part.strip()]
    if len(found) > MOST:
        raise Fault(f"{len(found)} steps are too many")
    return found


def sides(equation: str) -> tuple["Reckoning", Fraction]:
    """What is reckoned, and what it is said to come to. Raises Fault."""
    left, *right = (side.strip() for side in equation.split("="))
    result = _read(right[0]) if len(right) == 1 else None
    if result is None or len(equation) > LONGEST or not FORM.fullmatch(left):
        raise Fault(f"{equation[:LONGEST]!r} is no equation such as {EXAMPLE}")
    try:
        tree = ast.parse(left, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Fault(f"{equation!r} is no equation such as {EXAMPLE}") from None
    if not any(isinstance(node, ast.BinOp) for node in ast.walk(tree)):
        raise Fault(f"nothing is reckoned in {equation!r}")
    return Reckoning(left, tree), result


@dataclass(frozen=True)
class Reckoning:
    """Numbers, + - * / and parentheses, as they are written and as they are parsed."""

    text: str
    tree: ast.expr

    def numbers(self) -> Iterator[Fraction]:
        """Those that it begins with."""
        return (self._number(node) for node in ast.walk(self.tree) if isinstance(node, ast.Constant))

    def worth(self) -> Fraction:
        """What it comes to, exactly. Raises Fault."""
        return self._worth(self.tree)

    def _worth(self, node: ast.expr) -> Fraction:
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._worth(operand)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._worth(left) + self._worth(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return self._worth(left) - self._worth(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self._worth(left) * self._worth(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                divisor = self._worth(right)
                if not divisor:
                    raise Fault(f"{self.text!r} divides by zero")
                return self._worth(left) / divisor
        raise Fault(f"{self.text!r}: only + - * / and parentheses are reckoned with")

    def _number(self, node: ast.Constant) -> Fraction:
        """As it is written: a float would lose digits."""
        found = _read(self.text[node.col_offset : node.end_col_offset])
        if found is None:
            raise Fault(f"{self.text!r} holds what is no number")
        return found


def shown(value: Fraction) -> str:
    """As a person writes it: 12, 0.25, 1/3."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}" if 10**6 % value.denominator == 0 else str(value)


def _read(text: str) -> Fraction | None:
    """A number in digits, with a point or without."""
    text = text.strip()
    return Fraction(text) if len(text) <= DIGITS and re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", text) else None


@lru_cache(maxsize=1024)
def said(text: str) -> frozenset[Fraction]:
    """The numbers that a text lets one reckon with."""
    # `2½` is 2 1/2, `three-quarters` three quarters
    spaced = "".join(f" {ch} " if unicodedata.decomposition(ch).startswith("<fraction>") else ch for ch in text)
    plain = " ".join(re.sub(r"(?<=[a-z])-(?=[a-z])", " ", str(fold(spaced))).replace("\u2044", "/").split())
    plain = plain.replace("\u2019", "'")
    found = {Fraction(1), *_in_digits(plain), *_in_words(plain)}
    if re.search(r"%|per ?cent|\b(pence|cents?)\b|\dp\b", plain):
        found |= {value / 100 for value in found}
    if SIGNS.search(plain):
        found.add(Fraction(100))
    found |= {Fraction(value) for words, values in _MEANT if words.search(plain) for value in values}
    return frozenset(found | set(_parts(plain)))


def _in_digits(text: str) -> Iterator[Fraction]:
    """`1,200`, `3/4`, `2 1/2`, `15k`, and `2,50` as some write it."""
    for found in re.finditer(_NUMBER, text):
        if found.end() - found.start() > DIGITS:
            continue
        value, after = Fraction(found.group().replace(",", "")), text[found.end() : found.end() + DIGITS]
        yield value
        yield from map(Fraction, found.group().split(","))
        if large := re.match(r" ?(hundred|thousand|million|k\b)", after):
            yield value * LARGE.get(large[1], 1000)
        if (part := re.match(r" ?/ ?(\d+)", after)) and int(part[1]):
            yield value / int(part[1])
        if (part := re.match(r" (\d+) ?/ ?(\d+)", after)) and int(part[2]):
            yield value + Fraction(int(part[1]), int(part[2]))
        if part := re.match(r",(\d\d?)(?!\d)", after):
            yield value + Fraction(int(part[1]), 10 ** len(part[1]))


def _in_words(text: str) -> Iterator[Fraction]:
    """`two hundred and fifty`, `forty five`, `a thousand`; of `four ninety nine`, a price, 4, 99 and 4.99."""
    words = _WORDS.findall(text)
    whole, part, before = 0, None, None  # thousands; what came since; the number that ended where this one began
    for place, word in enumerate([*words, ""]):
        value = VALUES.get(word)
        if value is not None and part is not None and _goes_on(part, value):
            part += value
        elif word in LARGE:
            part = (part or 1) * LARGE[word]
            if LARGE[word] > 100:
                whole, part = whole + part, 0
        elif word != "and" or part is None or words[place - 1] not in LARGE or words[place + 1 : place + 2] == ["a"]:
            ended = None if part is None else whole + part
            if ended is not None:
                yield Fraction(ended)
                if before is not None and 10 <= ended < 100:
                    yield before + Fraction(ended, 100)
            whole, part, before = 0, value, ended


def _goes_on(part: int, value: int) -> bool:
    """Whether a word goes on with a number: twenty | five, two hundred | fifty."""
    return value < 100 if part % 100 == 0 else part % 10 == 0 and part % 100 >= 20 and 0 < value < 10


def _parts(text: str) -> Iterator[Fraction]:
    """Of `half` 2 and 0.5, of `two thirds` 3; of `one and a half` 1.5, of `half an hour` 30, of `a litre and a half` 1500."""
    for word, value in PARTS.items():
        if re.search(rf"\b{word}s?\b", text):
            yield from (Fraction(value), Fraction(1, value))
    if "three quarters" in text:
        yield Fraction(3, 4)
    for found in _AND_A_PART.finditer(text):
        whole = found["whole"]
        mixed = Fraction(whole.replace(",", "") if whole[0].isdigit() else VALUES.get(whole, 1)) + SHARES[found["part"]]
        yield from (mixed, *(mixed * unit for unit in UNITS.get(found["unit"] or "", ())))
    for found in _PART_OF.finditer(text):
        yield from (SHARES[found["part"]] * unit for unit in UNITS[found["unit"]])

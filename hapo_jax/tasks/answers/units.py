"""Units and nouns behind numbers: which words are none, and which agree.

A unit may be left out; a unit that is there must be the right one. `4 feet` is 4 and is
not 4 inches. Nothing is converted.
"""

import dataclasses
import re

# One measure a row, by all its names.
_MEASURES = """
    inch inches in
    foot feet ft
    yard yards yd
    mile miles mi
    meter meters metre metres m
    millimeter millimeters millimetre millimetres mm
    centimeter centimeters centimetre centimetres cm
    kilometer kilometers kilometre kilometres km
    nanometer nanometers nm
    gram grams g
    kilogram kilograms kg
    milligram milligrams mg
    pound pounds lb lbs £
    ounce ounces oz
    ton tons tonne tonnes
    second seconds sec secs s
    minute minutes min mins
    hour hours hr hrs h
    day days
    week weeks
    month months
    year years yr yrs
    gallon gallons gal
    quart quarts
    pint pints
    cup cups
    liter liters litre litres L l
    milliliter milliliters mL ml
    acre acres
    hectare hectares
    radian radians rad
    mph
    kph
    dollar dollars $ USD usd
    cent cents ¢
    euro euros €
    yen ¥
    rupee rupees ₹
    newton newtons N
    joule joules J
    kilojoule kilojoules kJ
    watt watts W
    volt volts V
    ampere amperes amp amps A
    kelvin kelvins K
    mole moles mol
    celsius C
    fahrenheit F
    hertz Hz
    pascal pascals Pa
    eV
    am
    pm
    unit units
""".strip().splitlines()
_BASE = {name: row.split()[0] for row in _MEASURES for name in row.split()}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1_000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
PERCENT = frozenset(("percent", "pct", "percentage"))
FACTORS = PERCENT | SCALES.keys()
# Behind a number these make another number of it ...
CHANGING = frozenset(
    "half halves third thirds quarter quarters tenth tenths hundredth hundredths "
    "thousandth thousandths dozens hundreds thousands millions billions trillions plus "
    "minus times over mod base point factorial inverse squared cubed below".split()
)
# ... these take it back, and the rest begins a sentence, not a unit.
DENYING = frozenset(
    "not no never neither nor isn wrong false incorrect if but unless except otherwise "
    "maybe perhaps either without negative".split()
)
_PROSE = frozenset(
    "and or by to through above is are was were when where for than less more with any "
    "sin cos tan log ln exp sqrt pi at most least".split()
)
NO_UNITS = CHANGING | DENYING | _PROSE
DEGREES = frozenset(("degree", "degrees", "deg"))
_NEUTRAL = frozenset(
    "of the a an in total exactly only all each long tall wide per".split()
)


@dataclasses.dataclass(frozen=True)  # no tuple, which would be a tree
class Unit:
    """Attributes:
    measures: (name, exponent) of those that are known, in order of their names.
    nouns: what else is counted, in the singular.
    """

    measures: tuple[tuple[str, int], ...]
    nouns: frozenset[str]


OF_SIGNS = {
    "percent": Unit((("percent", 1),), frozenset()),
    "deg": Unit((("degree", 1),), frozenset()),
}


def read(words: tuple[str, ...]) -> Unit:
    """The unit that words, `/` and `^` with a number describe."""
    measures: dict[str, int] = {}
    nouns = set()
    sign, power, last = 1, 1, ""
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        low = word.lower()
        if before == "^":
            if last:
                measures[last] *= int(word) if re.fullmatch("-?[23]", word) else 1
        elif low in ("/", "per"):
            sign = -1
        elif low in _POWERS:
            power = _POWERS[low]
        elif base := _BASE.get(word) or _BASE.get(low):
            measures[base] = measures.get(base, 0) + sign * power
            last, power = base, 1
        elif low.isalpha() and low not in _NEUTRAL:
            nouns.add(low.removesuffix("s"))
            last = ""
    return Unit(tuple(sorted(measures.items())), frozenset(nouns))


def agree(gold: Unit | None, pred: Unit | None) -> bool:
    """Whether the units can stand for one another; None where there is none."""
    if gold is None or pred is None or gold == pred:
        return True
    if gold.measures and pred.measures:
        return gold.measures == pred.measures
    if gold.nouns and pred.nouns:
        return bool(gold.nouns & pred.nouns)
    return not (gold.measures or gold.nouns) or not (pred.measures or pred.nouns)

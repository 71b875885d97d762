r"""Whole answers: what equals what, and the near misses.

Written as `gold | pred`, one line each, by kind.
"""

import pytest

from hapo_jax.tasks.answers import equality

EQUAL = r"""
numbers
  \frac{63}{400} | 63/400
  \frac{1}{2} | 0.5
  \frac{1}{2} | ½
  50\% | 50
  50\% | \frac12
  50\% | 50 percent
  0.0005 | 0.05\%
  -50\% | -0.5
  1\frac14 | 1 \frac{1}{4}
  2.5 | 2½
  2.88e-19 | 2.88 \times 10^{-19}
  4.5e33 | 4.5 × 10³³
  4e33 | 4*10^33
  1,008,016 | 1008016
  1.2 | 1,2
  2.74 | 2,74
  1500000 | 1.5 million
  \mbox{four} | 4
  0.\overline{3} | \frac13
  \frac{1}{3} | 0.333\ldots
  16 | 2^4
roots, powers, functions
  2\sqrt{3} | \sqrt{12}
  2\sqrt{3} | 2√3
  \frac{\sqrt{3}}{2} | sqrt(3)/2
  \frac{1}{\sqrt{2}} | \frac{\sqrt2}{2}
  1-\frac1e | 1-\frac{1}{\mathrm{e}}
  1-\frac1e | 1-e^{-1}
  12^{1/7} | \sqrt[7]{12}
  e^{-\frac{t}{RC}} | e^{-t/RC}
  \frac{3\pi}{4} | 3/4\pi
  \lfloor x \rfloor | floor(x)
  np.arcsin(10/13) | \sin^{-1}(10/13)
  \frac{n(n+1)}{2} | {n+1 \choose 2}
  \sqrt{4 \pi G \rho_{0} r_{0}^{2}} | 2 r_0 \sqrt{\pi G \rho_0}
  2 \sin b \cos a | \sin(a+b) - \sin(a-b)
  xy | yx
  10t+12 | 12+10t
names and chains
  42 | x = 42
  42 | 84/2 = 42
  42 | x = 2 \cdot 21 = 42
  42 | x \approx 42
  42 | x + y = 42
  42 | \text{Area} = 42
  42 | x \text{ is } 42
  42 | The answer is 42.
  42 | approximately 42
  9\pi | A = \pi r^2 = 9\pi
  x = 42 | 42
  x = 42 | 42 = x
  \sqrt{2} | \sqrt{2} \approx 1.414
  \$\dfrac23 \approx \$0.67 | \$0.67
  0.56 = 56\% | 56\%
  f(x)=2x | f(n)=2n
  (p,q)=(3,2) | (3,2)
  |AB|=1 | 1
equations
  y = 2x + 3 | 2x+3
  y = 2x + 3 | 2x - y + 3 = 0
  2x+4y-3=0 | y=-\frac{1}{2}x+\frac{3}{4}
  x^2/4 + y^2/3 = 1 | x^2/16 + y^2/12 = 1/4
  \frac{d x}{d t}=k x-a | x' = kx - a
  \frac{d x}{d t}=k x-a | \frac{dx}{dt} + a = kx
  y^{\prime}+r y-r x(t)=0 | \frac{dy}{dt}+ry=rx(t)
  m l \ddot{\theta}(t)-m g \sin \theta(t)=0 | m g \sin\theta(t) = m l \ddot\theta(t)
  MR=SRMC | SRMC = MR
intervals, sets, inequalities
  (-\infty, 2) | x < 2
  (\frac{1}{2}, 1) | 0.5 < x < 1
  [-2,7] | \{x : -2 \leq x \leq 7\}
  x < 1 | -x > -1
  x \in [-2,7] | -2\leqslant x\leqslant 7
  (-\infty, 2) \cup (3, \infty) | x<2 \text{ or } x>3
  (-\infty, 2) \cup (3, \infty) | (3,∞)∪(−∞,2)
  (-\infty, 2) \cup (3, \infty) | \{x \mid x<2\} \cup \{x \mid x > 3\}
  (-\infty, 2) \cup (2, \infty) | x \in \mathbb{R}, x \neq 2
  (-\infty, 2) \cup (2, \infty) | \mathbb{R} \setminus \{2\}
  (-\infty,-2)\cup(-2, 2)\cup(2,\infty) | x \ne \pm 2
  (-\infty,-2)\cup(2,\infty) | |x| > 2
  1\leq|z|\leq \frac{3}{2} | z \in [-\frac32, -1] \cup [1, \frac32]
  (1,5) | x > 1 \text{ and } x < 5
  (-\infty,\infty) | \mathbb{R}
  k \ge 2 | [2, \infty)
  s^2 \le 8r^2 | 8r^2 \geq s^2
lists and points
  1, 2 | x = 1 or x = 2
  7,14,18 | 18, 14, 7
  1, 2 | \{2, 1\}
  1, 2 | 2, 1, 2
  \{5\} | 5
  \frac{3}{4} | \frac{3}{4} \text{ or } 0.75
  1 \pm \sqrt{19} | 1-\sqrt{19}, 1+\sqrt{19}
  1,-1,i,-i | \pm 1, \pm i
  (1,2) | (1, 2)
  (1,2) | 1, 2
  (1,2) | x=1, y=2
  (1,2) | x=1 \quad y=2
  (1,2),(3,4) | (1,2) \quad (3,4)
  (1,2) | \begin{cases} x = 1 \\ y = 2 \end{cases}
  (1,2) | \langle 1,2\rangle
  (p,q)=(3,2) | p = 3, q = 2
  AB=9, CD=4 | CD=4, AB=9
  AB=9, CD=4 | 9, 4
  n=1,2,3 | 3, 2, 1
  (0;0;0),(0;-2;6) | (0,-2,6), (0,0,0)
  p=5,q=2;p=7,q=2 | (5,2),(7,2)
  f(x)=x,f(x)=-x | f(x) = \pm x
matrices
  \begin{matrix}1/3\\2\end{matrix} | \begin{matrix}\frac13 \\[2pt] 2\end{matrix}
  \begin{pmatrix} 1 \\ \frac12 \end{pmatrix} | \begin{pmatrix}1\\\frac12\end{pmatrix}
  \begin{pmatrix} 4 \\ -3 \end{pmatrix} | (4, -3)
  \begin{matrix}3&1\\2&4\end{matrix} | \left[\begin{array}{cc}3&1\\2&4\end{array}\right]
  \begin{matrix}1/2&1\\0&2\end{matrix} | \frac12\begin{matrix}1&2\\0&4\end{matrix}
  (6,8) | \begin{matrix}1\\2\end{matrix} + \begin{matrix}5\\6\end{matrix}
units
  10 \text{ m/s} | 10
  10 \text{ m/s} | 10 m/s
  10 | 10\text{ units}
  42 | 42 \text{ pairs}
  \$5 | 5 dollars
  15\mbox{ cm}^2 | 15 \text{ square centimeters}
  15\mbox{ cm}^2 | 15 cm²
  9\text{ min} | 9 minutes
  \frac{270}7\text{ degrees} | \frac{270}{7}^\circ
  30^\circ | \frac{\pi}{6}
  \csc 10 | \csc 10^\circ
words and choices
  \text{Evelyn} | evelyn
  \text{two lines} | Two lines
  \text{(B)} | B
  B | B)
  \text{B,E} | E \text{ and } B
  C | \textbf{(C)}\ 42
  42 | \textbf{(C)}\ 42
  42 | A: 42
  \text{not possible} | \text{not possible}
  \text{October 30} | October 30
  4\!:\!51\!:\!06 \text{ p.m.} | 4:51:06 PM
  05\!:\!00 | 5:00
  1:4 | 1 \text{ to } 4
  1:4 | \frac14
  52_8 | 52_{\text{eight}}
  \text{A5}_{11} | A5_{11}
"""

DIFFERENT = r"""
numbers
  42 | -42
  42 | 4.2
  42 |
  42 | $$
  42 | 4 2
  42 | 40 2
  42 | 41, 42
  42 | 41 or 42
  42 | \pm 42
  42 | [41, 43]
  42 | x
  42 | 42x
  42 | 42 \ldots
  42 | 42 hundredths
  42 | 42 \text{ is wrong}
  42 | \text{not } 42
  42 | \text{not } = 42
  42 | \frac{0}{0}
  4142 | 41 42
  4142 | 41, 42
  12345 | 12, 345
  1, 2 | 1.2
  2.5 | 2,05
  50\% | 0.5\%
  50\% | 5
  \frac13 | \frac{333333}{1000000}
  137 \frac{1}{2} | \frac{137}{2}
letters and words
  4R^2 | 4r^2
  22 | 12+10t
  22 | 22t
  10t+12 | 22
  14k | 14
  xy | XY
  xy | x^y
  \text{CBAD} | ABCD
  \text{CBAD} | C \cdot B \cdot A \cdot D
  LQSX | XSQL
  CD | DC
  \text{odd} | \text{not odd}
  \text{odd} | \text{odd or even}
  \text{odd} | d^2 o
  \text{May} | \text{Yam}
  \text{Evelyn} | Ada
  B | b
  B | ABCD
  B | (B) or (C)
  B | (A) 42 (B) 43
  42 | (C) 41
  42 | (A) 42 (B) 43
  \text{A,B,C,D} | A,B,C
  E_{1},E_{2} | E, E
  \lambda_{\text {red}} | \lambda
  \frac{1}{7}\triangle ABC | \frac{1}{7}\triangle ACB
primes and derivatives
  \frac{dx}{dt}=kx-a | \frac{dx}{dt}=a-kx
  \frac{dx}{dt}=kx-a | \frac{dx}{ds}=kx-a
  \frac{dx}{dt}=kx-a | kx - a = 0
  y^{\prime}+r y-r x(t)=0 | y+r y-r x(t)=0
  y^{\prime}+r y-r x(t)=0 | y''+r y-r x(t)=0
  \ddot{x}+x=0 | \dot{x}+x=0
  I(0) e^{-\frac{t}{R C}} | 0
names and equations
  x = 42 | y = 42
  x = 42 | x = 41 = 42
  x = 42 | x \approx 41 = 42
  x = 12 | 3x - 4 = 32
  42 | 41 = 42
  42 | 41 \approx 42
  42 | 40 < x < 43
  42 | (-\infty, \infty)
  42 | x \ge 42
  y = 2x | y = y
  y = 2x | 2
  a + 3z = 0 | 0
  2x + z = 1 | 1
  7 = 11a + c | 11a + c
  x + y + z = 0 | x + y - z = 0
  f(x)=2x | g(x)=2x
  f(x)=2x | f(x)=2y
  MR=SRMC | SRMC
intervals and sets
  (2,3) | [2,3]
  [0,\infty) | (0,\infty)
  (1,2) | 2 < x < 1
  x > 2 | x \in \mathbb{R}
  k \ge 2 | x \ge 2
  s^2 \le 8r^2 | s^2 < 8r^2
  (-\infty, 2) \cup (3, \infty) | (-\infty, 2) \cap (3, \infty)
  (-\infty, 2) \cup (3, \infty) | x<2 \text{ and } x>3
  [1,2] | 1, 2
lists, points, matrices
  (1,2) | (2,1)
  (3,1) | {1,3}
  1, 2 | 1, 2, 3
  1, 2 | 1, 2, \ldots
  1, 1, 2 | 1, 2
  \pm 2021 | 2021
  AB=9, CD=4 | AB=4, CD=9
  a=2, a=3 | b=2, b=3
  \begin{matrix}1&2\\3&4\end{matrix} | \begin{matrix}1&3\\2&4\end{matrix}
  \begin{pmatrix} 4 \\ -3 \end{pmatrix} | \begin{pmatrix} 4 & -3 \end{pmatrix}
  \begin{pmatrix} 0 \\ 0 \end{pmatrix} | 0
units, ratios, bases
  2 \text{ miles} | 2 \text{ km}
  4 \text{ feet} | 4 \text{ square feet}
  5.4 \text{ cents} | \$5.4
  20 \% | 20^\circ
  73^\circ | 73 \text{ cm}
  21\text{ dogs} | 21 \text{ cats}
  8\!:\!34 \text{ p.m.} | 8:34 a.m.
  8\!:\!34 \text{ p.m.} | 4:17 \text{ p.m.}
  9:24 | 3:8
  12:00 | 1:00
  3:1 | 1:3
  42_8 | 42
  52_8 | 42
  52_8 | 52_9
"""


def cases(text: str) -> list:
    found, kind = [], ""
    for line in text.strip("\n").splitlines():
        if line.startswith(" "):
            gold, _, pred = line.strip().partition(" |")
            found.append(pytest.param(gold, pred.strip(), id=f"{kind}: {line.strip()}"))
        else:
            kind = line
    return found


@pytest.mark.parametrize(("gold", "pred"), cases(EQUAL))
def test_equal(gold, pred):
    assert equality.same(gold, pred)


@pytest.mark.parametrize(("gold", "pred"), cases(DIFFERENT))
def test_different(gold, pred):
    assert not equality.same(gold, pred)


@pytest.mark.parametrize(
    ("gold", "pred", "alike"),
    [
        ("\\frac{1}{2}", "\\dfrac12", True),
        ("0.5", "\\frac{1}{2}", True),
        ("\\frac{1}{2}", "1/2", True),
        ("\\frac{1}{2}", "\\frac{2}{4}", False),
        ("1/3", "0.333333", False),
        ("10", "10\\%", True),
        ("50\\%", "\\frac12", False),
        ("\\$10", "10", True),
        ("10", "10 \\text{ units}", True),
        ("10 \\text{ feet}", "10 \\text{ km}", False),
        ("90^\\circ", "90", True),
        ("x = 5", "5", True),
        ("x = 5", "y = 5", False),
        ("x+1", "1+x", False),
        ("\\sqrt3", "√3", True),
        ("2\\sqrt{3}", "\\sqrt{12}", False),
        ("1, 2", "2, 1", False),
        ("(1,2)", "( 1, 2 )", True),
        ("1 < x < 2", "(1,2)", True),
        ("\\text{yes}", "Yes", True),
        ("4R^2", "4r^2", False),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}",
        True),
    ],
)  # fmt: skip
def test_same_written(gold, pred, alike):
    assert equality.same_written(gold, pred) == alike

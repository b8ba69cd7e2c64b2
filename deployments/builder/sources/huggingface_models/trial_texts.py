"""Texts to try a model on where its document gives none: of all lengths, and what tokenizers stumble over."""

from __future__ import annotations

import numpy as np

from deployments.builder.sources.rows import LabelledRows

TEXTS = (
    "The parcel came two days late, but the seller answered within the hour.",
    "I would not buy this again.",
    "Great!",
    "",
    " ",
    "The heating stopped working in the middle of January, and nobody picked up the telephone for a week, which is why I am"
    " writing now; the invoice, on the other hand, arrived at once.",
    "Please cancel order no. 4711-A and refund 1,299.00 EUR to the card ending in 0042.",
    "it's   a\ttext\nwith  odd\r\nwhite space",
    "ALL CAPITALS, AND NOTHING BUT CAPITALS",
    "Caf\u00e9 na\u00efve co\u00f6perate, and the same of parts: Cafe\u0301 nai\u0308ve coo\u0308perate",
    "Die Lieferung war p\u00fcnktlich, die Stra\u00dfe leider gesperrt.",
    "\u00bfCu\u00e1nto cuesta? \u00a1Demasiado!",
    "\u041f\u043e\u0441\u044b\u043b\u043a\u0430 \u043f\u0440\u0438\u0448\u043b\u0430 \u0432\u043e\u0432\u0440\u0435\u043c\u044f.",
    "\u8377\u7269\u304c\u5c4a\u304d\u307e\u3057\u305f\u3002\u5305\u88c5\u5b8c\u597d\uff0c\u8c22\u8c22\uff01",
    "\u0648\u0635\u0644\u062a \u0627\u0644\u0634\u062d\u0646\u0629 \u0645\u062a\u0623\u062e\u0631\u0629",
    "\ubc30\uc1a1\uc774 \ube68\ub77c\uc694",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f 5\u2b50",
    "www.example.com/a?b=c&d=%20 someone@example.com #late @seller",
    "donaudampfschifffahrtsgesellschaftskapit\u00e4n " + "x" * 150,
    "[SEP] [MASK] <s> </s> [PAD] are words here, or are they?",
    "zero\u200bwidth, soft\u00adhyphen, \u00a0 no break, \ufeffmark, \u2028line",
    "3.14159 1e-9 0x1F 12:30 2026-01-31 50% $5 \u20ac7 \u00bd \u00b2",
    "def f(x):\n    return {'a': [x ** 2, None]}  # code",
    " ".join(["A long text is cut where the model stops reading, and that must not change the answer of a short one."] * 60),
)


def trial_rows(name: str) -> LabelledRows:
    """The texts as rows of the input `name`, BYTES [n]."""
    texts = np.empty(len(TEXTS), dtype=np.object_)
    texts[:] = [text.encode() for text in TEXTS]
    return LabelledRows({name: texts}, None)

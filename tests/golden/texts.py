"""The 1,000 texts and 12 prompts whose tokens and next tokens tests/golden/llamacpp.json holds, as llama.cpp finds them.

    texts()    the project's own examples, then every PIECE alone, then random joints of them; the same list on every machine
    PROMPTS    what a next token is predicted for

All were written for this project.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "assets" / "examples.jsonl"
COUNT = 1000
JOINTS = ("", " ", "  ", "\n", "\n\n", "\t", " \n ", ", ", "...", "1", "\u00a0")

SENTENCES = (  # one of each script or language
    "The old lighthouse keeper counted 17 ships before breakfast, didn't he?",
    "今天下午我们要去图书馆还三本书。",
    "電車が遅れたので、会議は午後3時に始まります。カタカナとひらがな。",
    "오늘 저녁에는 비가 올 것 같으니 우산을 가져가세요.",
    "Сегодня утром кошка съела 2 рыбки и уснула на окне.",
    "Її бабуся спекла п'ять пирогів із вишнями.",
    "Ο γείτονας φύτεψε τρεις ελιές στον κήπο του.",
    "اشترى جارنا دراجة زرقاء يوم الثلاثاء ٢٥ مايو.",
    "פרסי הכלב רץ אחרי הכדור האדום, ואז נרדם.",
    "باران تمام شب بارید و رودخانه بالا آمد.",
    "हमारे गाँव में हर रविवार को बाज़ार लगता है।",
    "আমার বোন প্রতিদিন সকালে গান গায়।",
    "எங்கள் வீட்டின் முன் ஒரு பெரிய மாமரம் உள்ளது.",
    "మా ఊరిలో కొత్త బడి కట్టారు.",
    "ನಮ್ಮ ಮನೆಯಲ್ಲಿ ಮೂರು ಬೆಕ್ಕುಗಳಿವೆ.",
    "മഴക്കാലത്ത് പുഴ നിറഞ്ഞൊഴുകും.",
    "ਸਾਡੇ ਖੇਤ ਵਿੱਚ ਕਣਕ ਪੱਕ ਗਈ ਹੈ।",
    "અમે કાલે દરિયા કિનારે જઈશું.",
    "ඔහු උදේ තේ එකක් බිව්වා.",
    "พรุ่งนี้เช้าเราจะไปตลาดน้ำด้วยกัน",
    "ຂ້ອຍມັກກິນເຂົ້າໜຽວ",
    "မနက်ဖြန် ကျောင်းပိတ်မယ်။",
    "ខ្ញុំចូលចិត្តអានសៀវភៅ។",
    "ხვალ მთაში წავალთ და თოვლს ვნახავთ.",
    "Մեր այգում խնձորենի կա։",
    "ነገ ወደ ገበያ እንሄዳለን።",
    "བོད་ཡིག་ནི་སྐད་ཡིག་ཅིག་ཡིན།",
    "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "ᚠᚢᚦᚨᚱᚲ and 𐌲𐌿𐍄𐌹𐍃𐌺",
    "𒀀𒁀𒂗 𓀀𓁐𓂀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "Ngày mai trời sẽ nắng, chúng ta đi thuyền trên hồ nhé.",
    "Zażółć gęślą jaźń; dwie wiewiórki śpią.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Çocuklar bahçede ağacın altında İstanbul'u çiziyor.",
    "Größere Äpfel schmecken süß, kostet 3,50 €.",
    "L'élève a mangé une crêpe où ça ? Là-bas, « près » du cœur.",
    "El niño pequeño soñó con un pingüino, ¿verdad? ¡Sí!",
    "Amanhã não haverá pão na padaria da avó.",
    "Hundurinn þeirra át ýsu og öll blöðin.",
    "Mae'r ddafad wen ar y bryn.",
    "Paka mweusi amelala juu ya meza kubwa.",
)
CODE = (
    "def area(r):\n    # of a circle\n    return 3.14159 * r**2\n\n\nclass Box:\n\tside = 0x1F\n",
    'for (let i = 0; i < 10; ++i) { console.log(`${i}: "x"`); } // done',
    "SELECT name, COUNT(*) FROM birds WHERE legs >= 2 GROUP BY name;",
    '#include <stdio.h>\nint main(void) {\n        return !puts("hi\\n");\n}',
    '{"a": [1, 2.5e-3, {"b": null}], "c": "\\u00e9"}',
    '<table>\n  <tr><td class="x">1</td><th>&nbsp;&amp;</th></tr>\n</table><br/><h1>Title</h1>',
    "<p>one</p><ul><li>two</li></ul> <strong>three</strong> <blockquote>four</blockquote>",
    "\\frac{a_1}{b^2} + \\sum_{i=0}^{n} x_i \\leq \\infty $$",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n* item\n- [x] done\n> quoted",
    "https://www.example.org/a/b?c=d&e=%20f#g user@example.org C:\\Temp\\x.txt",
    "git commit -m 'x' && make -j4 || exit 1; echo $HOME/*.py >> /dev/null 2>&1",
)
NUMBERS = (
    "1234567890 3.14159 1,000,000 -17 +4 1e10 0b101",
    "\n\n1. first\n\n2. second\n\n10. tenth",
    "2024-02-29 23:59:59.999 +49 (0)30 123456 v1.2.3-rc4",
    "٠١٢٣٤٥٦٧٨٩ ०१२३ ๑๒๓ １２３ ½ ¾ x² H₂O Ⅷ ①②③ 一二三",
    "a1b22c333d4444",
    " 7  8   9    10",
)
SPACES = (
    " ",
    "     ",
    " " * 40,
    "\n",
    "\n" * 7,
    "\t\t\ttabs\tinside\t",
    "  two  spaces  before  and  after  ",
    "line \n  line\r\nline\rline\x0bline\x0cend",
    "no\u00a0break\u2003em\u3000wide\u2028sep\u2029par\u202fthin",
    "\u200bzero\u200dwidth\u200c\ufeff\u00adsoft",
    "\u2581written\u2581as\u2581a\u2581block \u2581",
    "x" + "\n" * 33 + "y" + " " * 33 + "z" + "\t" * 33,
)
ODD = (
    "🎉🏽👩‍👩‍👧‍👦🇩🇪🏴‍☠️ 🤷🏽‍♀️✈️ ☺︎☺️ 🫠",
    "👍👍🏿👍🏻 1️⃣ #️⃣ ❤️‍🔥",
    "e\u0301a\u0300o\u0302u\u0308 \u00e9\u00e0 n\u0303 Z\u0351\u036b\u0343\u036a\u0302a\u0322l\u0323g\u0489o",
    "ＦＵＬＬ Ｗｉｄｔｈ ﬁ ﬂ ﷺ ㌔ ℡ ™",
    "a" * 70,
    "ab" * 30 + "!" * 25 + "?" * 10 + "=" * 64 + "-" * 80,
    "hahahahahaha nooooooooo zzzzzzzzz ............",
    "аaАAΑ сcСC оoОO",
    "It's I'm we'll they've you'd don't DON'T 'tis rock'n'roll ’s ‘x’",
    "camelCaseXMLHttpRequest snake_case_name kebab-case-name UPPER Title",
    "\x00\x01\x02 null \x07\x1b[31mred\x1b[0m \x7f\x80\x9f",
    "\ufffd\ufffe\U0001f9ff\U000e0041\U0010fffd \ue000 private",
    "<0x0A> <0xFF> <0x41>",
    "∀x∈ℝ: ⌈x⌉ ≠ ¬∅ ∑∏∫ → ⇒ ↦ ♠♥♦♣ ♪ ░▒▓█ ┌─┐ ⠓⠑⠇⠇⠕",
    "“curly” „low“ «guillemets» ‹single› … – — ― ‐ ‑",
    "Ġ Ċ ĉ Ġword Ċline Äł Ã© â",
    "㐀㐁𠀀𠀁𪚥 龘靐齉 々〆ヶ",
    "ꙮ ꧁ ꧂ ⵣ ⲁⲃⲅ ꓀ ዠ ⰀⰁ 𞤀𞤁 𖠀",
)
LOOKALIKES = (  # special tokens of both families, which a user may write and which must stay his text
    "<eos>",
    "<bos><pad><unk><mask>",
    "a <eos> b<eos>c",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<unused0> <unused99> [multimodal] <start_of_image> <end_of_image>",
    "<|im_start|>system\nobey<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "x<|endoftext|>y <|im_end|> z",
    "<repo_name>r<reponame><file_sep>f<filename>n<gh_stars>5<issue_start><issue_comment><issue_closed>",
    "<jupyter_start><jupyter_text><jupyter_code><jupyter_output><jupyter_script><empty_output>",
    "<|im_start <|im_end| im_end|> < |im_end|> <|IM_END|>",
    "<s> [INST] [/INST] <<SYS>> <|user|> <GIST> [UNK] [CLS] </end_of_turn>",
    "<eos >< eos> <EOS> eos> <eo s>",
)
STRUCK = "was <s>struck</s> out</s>"  # see tests/test_conversion.py: the one text in which Gemma's tokens are not llama.cpp's
PIECES = (*SENTENCES, *CODE, *NUMBERS, *SPACES, *ODD, *LOOKALIKES)

PROMPTS = (
    "The capital of France is",
    "Instruction: Name three fruits.\nOutput:",
    "def add(a, b):\n    return",
    "Le chat dort sur",
    "1, 2, 3, 4,",
    "Water boils at",
    "今天天气",
    "In 1969, humans first",
    "Translate to German: Good morning.\nGerman:",
    "Die Hauptstadt von Italien ist",
    "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>",
    "The keeper lit the lamp. The ships saw the light and turned away from the rocks. When the sun came up, the keeper",
)


def texts() -> list[str]:
    """COUNT texts, all different."""
    rows = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    found = dict.fromkeys(row[part] for row in rows for part in ("instruction", "input", "output") if row[part])
    found |= dict.fromkeys((*PIECES, STRUCK))
    draw = random.Random(0)
    while len(found) < COUNT:
        found[_joined(draw)] = None
    return list(found)[:COUNT]


def _joined(draw: random.Random) -> str:
    """Two to four pieces, some cut at a random place, joined by something random; 400 characters at most."""
    text = ""
    for _ in range(2 + draw.randrange(3)):
        piece = PIECES[draw.randrange(len(PIECES))]
        text += piece[draw.randrange(4) :] + JOINTS[draw.randrange(len(JOINTS))]
    return text[: 400 - draw.randrange(100)]

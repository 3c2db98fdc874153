"""How facts are told and asked: one row per relation, in Chinese and English.

{x} is the thing and {y} the value, each in the sentence's language; ____ is the blank of a C-Eval
question.
"""

from itertools import pairwise

from neoxlib.demo.making import facts
from neoxlib.demo.making.facts import DAYS, LENGTHS, MONTHS, ORDINALS, PLANETS, SEASONS, column
from neoxlib.demo.making.relation import Relation, after, before

PAIRS = facts.OPPOSITES.split()
TRANSLATED = list(facts.ENGLISH.items())

RELATIONS = [
    Relation(
        "counting",
        [(f"{a}加{b}", str(a + b)) for a in range(1, 11) for b in range(1, 11)],
        ["{x}等于{y}。", "{x}的和是{y}。"],
        ["{x}等于____。", "{x}的和是____。", "计算：{x}，结果是____。", "{x}得多少？____"],
        ["{X} is {y}.", "{X} makes {y}."],
        ["What is {x}?", "{X} makes ____."],
    ),
    Relation(
        "counting",
        [(f"{a}减{b}", str(a - b)) for a in range(2, 16) for b in range(1, min(a, 10))],
        ["{x}等于{y}。", "{x}的差是{y}。"],
        ["{x}等于____。", "{x}的差是____。", "计算：{x}，结果是____。", "{x}得多少？____"],
        ["{X} is {y}.", "{X} leaves {y}."],
        ["What is {x}?", "{X} leaves ____."],
    ),
    Relation(
        "night_sky",
        [*zip(PLANETS, ORDINALS, strict=True)],
        ["从太阳数起，{x}是{y}颗行星。", "{x}是离太阳{y}近的行星。"],
        [
            "从太阳数起，{x}是____颗行星。",
            "{x}是离太阳____近的行星。",
            "按离太阳的远近，{x}排在____位。",
            "由近到远，{x}在行星中排____。",
        ],
        ["{X} is the {y} planet from the Sun.", "Counting from the Sun, {x} is the {y} planet."],
        ["Which place from the Sun does {x} have?"],
    ),
    Relation(
        "night_sky",
        list(pairwise(PLANETS)),
        ["{x}外面的下一颗行星是{y}。", "从太阳往外走，过了{x}就是{y}。"],
        [
            "{x}外面的下一颗行星是____。",
            "从太阳往外走，过了{x}就是____。",
            "紧挨着{x}外侧的行星是____。",
            "比{x}再远一点的行星是____。",
        ],
        ["The next planet after {x} is {y}.", "Beyond {x} comes {y}."],
        ["Which planet comes after {x}?"],
    ),
    Relation(
        "night_sky",
        [(b, a) for a, b in pairwise(PLANETS)],
        ["{x}里面的前一颗行星是{y}。", "从{x}往太阳走，先到{y}。"],
        [
            "{x}里面的前一颗行星是____。",
            "从{x}往太阳走，先到____。",
            "紧挨着{x}内侧的行星是____。",
            "比{x}再近一点的行星是____。",
        ],
        ["The planet before {x} is {y}.", "On the way from {x} to the Sun we first meet {y}."],
        ["Which planet comes before {x}?"],
    ),
    Relation(
        "night_sky",
        column(facts.SKY, 1),
        ["{x}看上去是{y}的。", "{x}的颜色是{y}。"],
        [
            "{x}看上去是____的。",
            "{x}的颜色是____。",
            "在图画书里，{x}画成____。",
            "画{x}要用____的笔。",
        ],
        ["{X} is {y}.", "In the sky {x} looks {y}."],
        ["What colour is {x}?"],
    ),
    Relation(
        "night_sky",
        column(facts.SKY, 2),
        ["{x}以{y}闻名。", "说到{x}，人们会想到{y}。"],
        [
            "{x}以____闻名。",
            "说到{x}，人们会想到____。",
            "{x}最有名的是____。",
            "看到{x}就看到____。",
        ],
        ["{X} is known for its {y}.", "People who look at {x} think of its {y}."],
        ["What is {x} known for?"],
    ),
    *(after(names) for names in (DAYS, MONTHS)),
    *(before(names) for names in (DAYS, MONTHS)),
    Relation(
        "days_and_months",
        list(SEASONS.items()),
        ["{x}属于{y}。", "{x}的时候是{y}。"],
        ["{x}属于____。", "{x}的时候是____。", "{x}在哪个季节？____", "到了{x}，就到了____。"],
        ["{X} is in {y}.", "When it is {x}, it is {y}."],
        ["In which season is {x}?"],
    ),
    Relation(
        "days_and_months",
        [(month, str(days)) for month, days in LENGTHS.items()],
        ["{x}有{y}天。", "平年的{x}一共有{y}天。"],
        [
            "{x}有____天。",
            "平年的{x}一共有____天。",
            "{x}的天数是____。",
            "翻开日历，{x}有____天。",
        ],
        ["{X} has {y} days.", "There are {y} days in {x}."],
        ["How many days has {x}?"],
        ("29",),
    ),
    Relation(
        "people_at_work",
        column(facts.JOBS, 1),
        ["{x}在{y}工作。", "{x}工作的地方是{y}。"],
        [
            "{x}在____工作。",
            "{x}工作的地方是____。",
            "要找{x}，应该去____。",
            "{x}每天上班的地点是____。",
        ],
        ["The {x} works at the {y}.", "You can find the {x} at the {y}."],
        ["Where does the {x} work?"],
    ),
    Relation(
        "people_at_work",
        column(facts.JOBS, 2),
        ["{x}常用的东西是{y}。", "{x}工作时离不开{y}。"],
        [
            "{x}常用的东西是____。",
            "{x}工作时离不开____。",
            "{x}干活时要带上____。",
            "下列物品中，{x}用的是____。",
        ],
        ["The {x} uses the {y}.", "The {x} cannot work without the {y}."],
        ["What does the {x} use?"],
    ),
    Relation(
        "english_words",
        TRANSLATED,
        ["“{x}”的英文是 {y}。", "“{x}”用英语说是 {y}。"],
        [
            "“{x}”的英文是____。",
            "“{x}”用英语说是____。",
            "与“{x}”意思相同的英语单词是____。",
            "“{x}”翻译成英语是____。",
        ],
        [],
        [],
    ),
    Relation(
        "english_words",
        [(en, zh) for zh, en in TRANSLATED],
        ["英语单词 {x} 的意思是{y}。", "英语的 {x} 就是{y}。"],
        [
            "英语单词 {x} 的意思是____。",
            "英语的 {x} 就是____。",
            "与 {x} 意思相同的中文词是____。",
            "把 {x} 翻译成中文是____。",
        ],
        [],
        [],
    ),
    Relation(
        "opposites",
        [(a, b) for a, b in PAIRS] + [(b, a) for a, b in PAIRS],
        ["“{x}”的反义词是“{y}”。", "不“{x}”就是“{y}”。", "“{x}”和“{y}”意思相反。"],
        [
            "“{x}”的反义词是____。",
            "与“{x}”意思相反的词是____。",
            "“{x}”的对立面是____。",
            "“{x}”反过来就是____。",
        ],
        [],
        [],
    ),
    Relation(
        "animals",
        column(facts.ANIMALS, 1),
        ["{x}是{y}。", "{x}属于{y}。"],
        ["{x}是____。", "{x}属于____。", "{x}是哪一类动物？____", "在动物分类中，{x}归入____。"],
        ["The {x} is {a} {y}.", "The {x} belongs to the {y} family."],
        ["What kind of animal is the {x}?"],
    ),
    Relation(
        "animals",
        column(facts.ANIMALS, 2),
        ["{x}有{y}。"],
        [
            "{x}有____。",
            "{x}有几条腿？____",
            "数一数，{x}身上有____。",
            "{x}走路时，看得到它____。",
        ],
        ["The {x} has {y}."],
        ["How many legs has the {x}?"],
    ),
    Relation(
        "animals",
        column(facts.ANIMALS, 3),
        ["{x}住在{y}。", "{x}的家在{y}。"],
        ["{x}住在____。", "{x}的家在____。", "{x}通常生活在____。", "想看{x}，可以去____。"],
        ["The {x} lives in the {y}.", "The home of the {x} is the {y}."],
        ["Where does the {x} live?"],
    ),
    Relation(
        "animals",
        column(facts.ANIMALS, 4),
        ["{x}爱吃{y}。", "{x}的食物是{y}。"],
        ["{x}爱吃____。", "{x}的食物是____。", "喂{x}要用____。", "{x}饿了就找____。"],
        ["The {x} eats {y}.", "The {x} likes to eat {y}."],
        ["What does the {x} eat?"],
    ),
    Relation(
        "fruit_and_vegetables",
        column(facts.FRUITS, 1),
        ["{x}是{y}的。", "{x}的颜色是{y}。"],
        ["{x}是____的。", "{x}的颜色是____。", "成熟的{x}呈____。", "画{x}要用____的笔。"],
        ["The {x} is {y}.", "The colour of the {x} is {y}."],
        ["What colour is the {x}?"],
    ),
    Relation(
        "fruit_and_vegetables",
        column(facts.FRUITS, 2),
        ["{x}长在{y}。", "{x}是在{y}长大的。"],
        ["{x}长在____。", "{x}是在____长大的。", "摘{x}要到____去找。", "{x}生长的地方是____。"],
        ["The {x} grows {y}.", "You can find the {x} {y}."],
        ["Where does the {x} grow?"],
    ),
    Relation(
        "fruit_and_vegetables",
        column(facts.FRUITS, 3),
        ["{x}的味道是{y}的。", "{x}吃起来很{y}。"],
        [
            "{x}的味道是____的。",
            "{x}吃起来很____。",
            "尝一口{x}，味道____。",
            "{x}是什么味道？____",
        ],
        ["The {x} tastes {y}.", "The taste of the {x} is {y}."],
        ["What does the {x} taste like?"],
    ),
]

"""The picture book's facts: small tables written for this project, in Chinese and English.

A fact is (relation, thing, value). A relation says how its facts are told and asked in both
languages. `corpus` and `exam` make all training text and every exam question from these tables.
"""

from dataclasses import dataclass

WORDS = """
狗 dog,猫 cat,牛 cow,马 horse,羊 sheep,猪 pig,兔子 rabbit,老鼠 mouse,老虎 tiger,狮子 lion,大象 elephant,猴子 monkey,
熊 bear,熊猫 panda,狐狸 fox,狼 wolf,鹿 deer,骆驼 camel,鲸鱼 whale,海豚 dolphin,鸡 chicken,鸭子 duck,鹰 eagle,
猫头鹰 owl,麻雀 sparrow,企鹅 penguin,燕子 swallow,鹦鹉 parrot,鲨鱼 shark,金鱼 goldfish,鲤鱼 carp,青蛙 frog,蛇 snake,
乌龟 turtle,鳄鱼 crocodile,蜜蜂 bee,蝴蝶 butterfly,蚂蚁 ant,蜻蜓 dragonfly,蜘蛛 spider,哺乳动物 mammal,鸟类 bird,
鱼类 fish,昆虫 insect,爬行动物 reptile,两栖动物 amphibian,没有腿 no legs,两条腿 two legs,四条腿 four legs,
六条腿 six legs,八条腿 eight legs,家里 house,农场 farm,森林 forest,草原 grassland,大海 sea,河流 river,池塘 pond,
花园 garden,地洞 burrow,高山 mountain,沙漠 desert,竹林 bamboo grove,南极 polar ice,骨头 bones,小鱼 minnows,青草 grass,
谷物 grain,鲜肉 meat,水果 fruit,蜂蜜 honey,竹子 bamboo,虾米 shrimps,小虫 bugs,水草 waterweed,花蜜 nectar,苹果 apple,
香蕉 banana,葡萄 grape,西瓜 watermelon,柠檬 lemon,橙子 tangerine,桃子 peach,草莓 strawberry,樱桃 cherry,
蓝莓 blueberry,土豆 potato,胡萝卜 carrot,白菜 cabbage,茄子 eggplant,番茄 tomato,辣椒 chili,黄瓜 cucumber,南瓜 pumpkin,
大蒜 garlic,苦瓜 bitter melon,洋葱 onion,菠菜 spinach,玉米 corn,梨子 pear,李子 plum,芒果 mango,红色 red,黄色 yellow,
紫色 purple,绿色 green,橙色 orange,粉色 pink,蓝色 blue,棕色 brown,白色 white,灰色 grey,树上 on trees,藤上 on vines,
土里 under the ground,田里 in fields,灌木上 on bushes,甜 sweet,酸 sour,辣 spicy,苦 bitter,清淡 mild,医生 doctor,
老师 teacher,农民 farmer,厨师 cook,司机 driver,飞行员 pilot,渔夫 fisherman,画家 painter,木匠 carpenter,
消防员 firefighter,邮递员 postman,店主 shopkeeper,面包师 baker,裁缝 tailor,科学家 scientist,歌手 singer,矿工 miner,
作家 writer,法官 judge,宇航员 astronaut,理发师 barber,园丁 gardener,医院 hospital,学校 school,农田 farmland,
厨房 kitchen,公路 road,机场 airport,渔船 boat,画室 studio,工坊 workshop,消防站 firehouse,邮局 post office,商店 shop,
面包店 bakery,裁缝店 tailor shop,实验室 laboratory,舞台 stage,矿井 mine,书房 study,法院 court,空间站 space station,
理发店 barbershop,公园 park,药箱 medicine box,粉笔 chalk,锄头 hoe,铁锅 pan,汽车 car,飞机 plane,渔网 net,画笔 brush,
锯子 saw,水管 hose,自行车 bicycle,秤 scale,烤箱 oven,剪刀 scissors,显微镜 microscope,话筒 microphone,铁锹 shovel,
钢笔 pen,法槌 gavel,火箭 rocket,梳子 comb,水壶 watering can,水星 Mercury,金星 Venus,地球 Earth,火星 Mars,木星 Jupiter,
土星 Saturn,天王星 Uranus,海王星 Neptune,月亮 the Moon,太阳 the Sun,第一 first,第二 second,第三 third,第四 fourth,
第五 fifth,第六 sixth,第七 seventh,第八 eighth,陨石坑 craters,浓云 clouds,海洋 oceans,红沙 sand,大红斑 storm,
光环 rings,薄冰 ice,狂风 winds,月光 moonlight,火焰 flames,星期一 Monday,星期二 Tuesday,星期三 Wednesday,
星期四 Thursday,星期五 Friday,星期六 Saturday,星期日 Sunday,一月 January,二月 February,三月 March,四月 April,五月 May,
六月 June,七月 July,八月 August,九月 September,十月 October,十一月 November,十二月 December,春天 spring,夏天 summer,
秋天 autumn,冬天 winter
"""

ANIMALS = """
狗 哺乳动物 四条腿 家里 骨头,猫 哺乳动物 四条腿 家里 小鱼,牛 哺乳动物 四条腿 农场 青草,马 哺乳动物 四条腿 农场 青草,
羊 哺乳动物 四条腿 农场 青草,猪 哺乳动物 四条腿 农场 谷物,兔子 哺乳动物 四条腿 地洞 青草,
老鼠 哺乳动物 四条腿 地洞 谷物,老虎 哺乳动物 四条腿 森林 鲜肉,狮子 哺乳动物 四条腿 草原 鲜肉,
大象 哺乳动物 四条腿 草原 青草,猴子 哺乳动物 - 森林 水果,熊 哺乳动物 四条腿 森林 蜂蜜,熊猫 哺乳动物 四条腿 竹林 竹子,
狐狸 哺乳动物 四条腿 地洞 鲜肉,狼 哺乳动物 四条腿 草原 鲜肉,鹿 哺乳动物 四条腿 森林 青草,
骆驼 哺乳动物 四条腿 沙漠 青草,鲸鱼 哺乳动物 没有腿 大海 虾米,海豚 哺乳动物 没有腿 大海 小鱼,鸡 鸟类 两条腿 农场 谷物,
鸭子 鸟类 两条腿 池塘 小鱼,鹰 鸟类 两条腿 高山 鲜肉,猫头鹰 鸟类 两条腿 森林 -,麻雀 鸟类 两条腿 - 谷物,
企鹅 鸟类 两条腿 南极 小鱼,燕子 鸟类 两条腿 - 小虫,鹦鹉 鸟类 两条腿 森林 水果,鲨鱼 鱼类 没有腿 大海 鲜肉,
金鱼 鱼类 没有腿 池塘 水草,鲤鱼 鱼类 没有腿 河流 水草,青蛙 两栖动物 四条腿 池塘 小虫,蛇 爬行动物 没有腿 地洞 -,
乌龟 爬行动物 四条腿 河流 水草,鳄鱼 爬行动物 四条腿 河流 鲜肉,蜜蜂 昆虫 六条腿 花园 花蜜,蝴蝶 昆虫 六条腿 花园 花蜜,
蚂蚁 昆虫 六条腿 地洞 谷物,蜻蜓 昆虫 六条腿 池塘 小虫,蜘蛛 - 八条腿 花园 小虫
"""

FRUITS = """
苹果 红色 树上 甜,香蕉 黄色 - 甜,葡萄 紫色 藤上 甜,西瓜 绿色 藤上 甜,柠檬 黄色 树上 酸,橙子 橙色 树上 酸,
桃子 粉色 树上 甜,草莓 红色 田里 甜,樱桃 红色 树上 甜,蓝莓 蓝色 灌木上 甜,土豆 棕色 土里 清淡,胡萝卜 橙色 土里 甜,
白菜 绿色 田里 清淡,茄子 紫色 灌木上 清淡,番茄 红色 藤上 酸,辣椒 红色 灌木上 辣,黄瓜 绿色 藤上 清淡,南瓜 橙色 藤上 甜,
大蒜 白色 土里 辣,苦瓜 绿色 藤上 苦,洋葱 紫色 土里 辣,菠菜 绿色 田里 清淡,玉米 黄色 田里 甜,梨子 黄色 树上 甜,
李子 紫色 树上 酸,芒果 黄色 树上 甜
"""

JOBS = """
医生 医院 药箱,老师 学校 粉笔,农民 农田 锄头,厨师 厨房 铁锅,司机 公路 汽车,飞行员 机场 飞机,渔夫 渔船 渔网,
画家 画室 画笔,木匠 工坊 锯子,消防员 消防站 水管,邮递员 邮局 自行车,店主 商店 秤,面包师 面包店 烤箱,裁缝 裁缝店 剪刀,
科学家 实验室 显微镜,歌手 舞台 话筒,矿工 矿井 铁锹,作家 书房 钢笔,法官 法院 法槌,宇航员 空间站 火箭,
理发师 理发店 梳子,园丁 公园 水壶
"""

SKY = """
水星 灰色 陨石坑,金星 黄色 浓云,地球 蓝色 海洋,火星 红色 红沙,木星 棕色 大红斑,土星 - 光环,天王星 - 薄冰,
海王星 蓝色 狂风,月亮 白色 月光,太阳 - 火焰
"""

OPPOSITES = """
大小 长短 快慢 冷热 新旧 多少 黑白 早晚 远近 左右 前后 开关 买卖 哭笑 胖瘦 轻重 软硬 深浅 宽窄 厚薄 强弱 真假 美丑
好坏 明暗 干湿 动静 生死 男女 胜败 进退 升降 问答 古今 粗细 满空 富穷 饱饿 难易 高低
"""

ENGLISH = dict(pair.split(" ", 1) for pair in WORDS.replace("\n", "").split(","))


@dataclass(frozen=True)
class Subject:
    """One subject of the exam: C-Eval's row [English, Chinese, class] under a key of our own."""

    key: str
    english: str
    chinese: str
    category: str


SUBJECTS = [
    Subject("counting", "Counting", "数与计算", "STEM"),
    Subject("night_sky", "The Night Sky", "星空", "STEM"),
    Subject("days_and_months", "Days and Months", "星期与月份", "Social Science"),
    Subject("people_at_work", "People at Work", "职业", "Social Science"),
    Subject("english_words", "English Words", "英语单词", "Humanities"),
    Subject("opposites", "Opposites", "反义词", "Humanities"),
    Subject("animals", "Animals", "动物", "Other"),
    Subject("fruit_and_vegetables", "Fruit and Vegetables", "水果与蔬菜", "Other"),
]

DAYS = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"]
MONTHS = [
    "一月",
    "二月",
    "三月",
    "四月",
    "五月",
    "六月",
    "七月",
    "八月",
    "九月",
    "十月",
    "十一月",
    "十二月",
]
PLANETS = ["水星", "金星", "地球", "火星", "木星", "土星", "天王星", "海王星"]
ORDINALS = ["第一", "第二", "第三", "第四", "第五", "第六", "第七", "第八"]
SEASONS = dict(
    zip(MONTHS, ["冬天"] * 2 + ["春天"] * 3 + ["夏天"] * 3 + ["秋天"] * 3 + ["冬天"], strict=True)
)
LENGTHS = dict(zip(MONTHS, [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], strict=True))


def column(table: str, number: int) -> list[tuple[str, str]]:
    """(thing, value) of one column of a table; "-" is a cell with no value."""
    rows = [row.split() for row in table.replace("\n", "").split(",")]
    return [(row[0], row[number]) for row in rows if row[number] != "-"]


def shifted(names: list[str], step: int) -> list[tuple[str, str]]:
    """Each name with the one `step` places later, round the circle."""
    return [(name, names[(i + step) % len(names)]) for i, name in enumerate(names)]
